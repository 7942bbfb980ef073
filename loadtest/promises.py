"""Whether promises were kept: refusals, errors and late answers are all misses."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from loadtest.open_loop import REFUSED, Outcome


@dataclass(frozen=True, slots=True)
class Promise:
    """The first token within `ttft_s`, then one every `tpot_s` on average."""

    ttft_s: float
    tpot_s: float

    def is_kept(self, outcome: Outcome) -> bool:
        if not outcome.is_answered:
            return False
        return outcome.ttft_s <= self.ttft_s and outcome.tpot_s <= self.tpot_s


@dataclass(frozen=True, slots=True)
class Summary:
    """Of a run, or of part of its requests; times in seconds, None where nothing was answered.

    `drained_s` is the time from the last arrival to the last answer, `refused_s` how long
    refusals took at the 99th percentile.
    """

    num_requests: int
    kept: float
    answered: int
    refused: int
    failed: int
    drained_s: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    tpot_p50_s: float | None
    tpot_p99_s: float | None
    refused_s: float | None
    tokens_per_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise(outcomes: Sequence[Outcome], promise: Promise) -> Summary:
    """Raises ValueError for no outcomes."""
    if not outcomes:
        raise ValueError("there are no requests to sum up")
    answered = [one for one in outcomes if one.is_answered]
    refused = [one for one in outcomes if one.status == REFUSED]
    statuses = Counter(one.is_answered or one.status == REFUSED for one in outcomes)
    last_arrival_s = max(one.request.at_s for one in outcomes)
    last_end_s = max((one.ended_s for one in answered), default=last_arrival_s)
    ttft = [one.ttft_s for one in answered]
    tpot = [one.tpot_s for one in answered]
    return Summary(
        num_requests=len(outcomes),
        kept=sum(map(promise.is_kept, outcomes)) / len(outcomes),
        answered=len(answered),
        refused=len(refused),
        failed=statuses[False],
        drained_s=max(last_end_s - last_arrival_s, 0.0),
        ttft_p50_s=quantile(ttft, 0.5),
        ttft_p99_s=quantile(ttft, 0.99),
        tpot_p50_s=quantile(tpot, 0.5),
        tpot_p99_s=quantile(tpot, 0.99),
        refused_s=quantile([one.ended_s - one.request.at_s for one in refused], 0.99),
        tokens_per_s=sum(one.output_tokens for one in answered) / max(last_end_s, 1e-9),
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of them do not exceed; None of none."""
    if not values:
        return None
    if share == 0.5:
        return statistics.median(values)
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


_COLUMNS = (
    "kept",
    "answered",
    "refused",
    "failed",
    "drained",
    "TTFT p50 / p99",
    "TPOT p50 / p99",
    "tokens/s",
)


def table_header(what: str) -> str:
    """Markdown."""
    return f"| {what} | {' | '.join(_COLUMNS)} |\n|" + "---|" * (1 + len(_COLUMNS))


def table_row(name: str, summary: Summary) -> str:
    cells = [
        f"{100 * summary.kept:.1f} %",
        str(summary.answered),
        str(summary.refused),
        str(summary.failed),
        f"{summary.drained_s:.1f} s",
        f"{_ms(summary.ttft_p50_s)} / {_ms(summary.ttft_p99_s)} ms",
        f"{_ms(summary.tpot_p50_s)} / {_ms(summary.tpot_p99_s)} ms",
        f"{summary.tokens_per_s:.0f}",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f}"
