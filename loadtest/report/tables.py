"""Results as tables: speeds and ratios per load point, and speed at matched throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from loadtest.divergence import DivergenceReport
from profiles.estimates import Estimate
from profiles.frontier import Point, Slo, curves, load_label, points, ratios
from profiles.load_records import LoadRecords
from profiles.matched_throughput import Matched, OverRounds, matched, matched_by_round

USER, REPLICA = "tokens_per_s_per_user", "tokens_per_s_per_replica"
_SPEEDS = {USER: "tokens/s/user", REPLICA: "tokens/s/replica"}


class Table(NamedTuple):
    """Text in rows of as many cells as the header has."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def check_references(asked: Sequence[str], arms: Sequence[str]) -> None:
    """Raises ValueError where an arm that is asked for is none of `arms`."""
    if unknown := [name for name in asked if name not in arms]:
        raise ValueError(
            f"--reference: there is no arm {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(map(repr, dict.fromkeys(arms)))}"
        )


def reference_arms(records: LoadRecords, asked: Sequence[str] = ()) -> list[str]:
    """What everything is compared with, at least one: of those asked for all that were run, or
    the arm whose run came first."""
    arms = list(dict.fromkeys(run.arm for run in records.runs))
    return [name for name in dict.fromkeys(asked) if name in arms] or arms[:1] or [""]


class Speed(NamedTuple):
    """An arm at a load point: medians over its rounds, and its ratio to the reference.

    `tokens_per_s` is of a replica; `ratio` and half the width of its 95 % interval are None
    where the reference has no run there; `is_paired` says whether both took turns on one server.
    """

    load: str
    arm: str
    tokens_per_s: float
    ratio: float | None
    ratio_half_width: float | None
    is_paired: bool
    error_rate: float
    rounds: int


def speeds(records: LoadRecords, slo: Slo, reference: str) -> list[Speed]:
    """Every arm at every load point, load by load."""
    over_reference = ratios(records, REPLICA, reference, slo)
    loads = list(dict.fromkeys(load_label(run) for run in records.runs))
    found = []
    for point in sorted(points(records, slo), key=lambda p: loads.index(p.label)):
        ratio = over_reference.get((point.arm, point.label))
        found.append(
            Speed(
                point.label,
                point.arm,
                point.of(REPLICA).median,
                _known(ratio.estimate.median) if ratio else None,
                _known(ratio.estimate.half_width) if ratio else None,
                ratio is not None and ratio.is_paired,
                fmean(run.error_rate for run in point.runs),
                len(point.runs),
            )
        )
    return found


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def speed_table(some: Sequence[Speed]) -> Table:
    """A row per load point: tokens/s/replica, the ratio to the reference, errors."""
    cells = {(one.load, one.arm): one for one in some}
    arms = tuple(dict.fromkeys(one.arm for one in some))
    return Table(
        ("load", *arms),
        tuple(
            (load, *(_cell(cells.get((load, arm))) for arm in arms))
            for load in dict.fromkeys(one.load for one in some)
        ),
    )


def _cell(one: Speed | None) -> str:
    if one is None:
        return ""
    ratio = ratio_text(one.ratio, one.ratio_half_width, is_paired=one.is_paired)
    return f"{number(one.tokens_per_s)} ({ratio}; errors {one.error_rate:.1%})"


def ratio_text(ratio: float | None, half_width: float | None, *, is_paired: bool = True) -> str:
    """`1.44x ± 0.02`, `1.44x ± 0.02 unpaired`; without an interval for a single run."""
    if ratio is None:
        return "no ratio"
    if half_width is None:
        return f"{ratio:.2f}x"
    return f"{ratio:.2f}x ± {half_width:.2f}" + ("" if is_paired else " unpaired")


def number(value: float) -> str:
    """Three digits that matter, or a dash for what is not known."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def matched_table(records: LoadRecords, slo: Slo, reference: str) -> Table:
    """Per arm and load of the reference, its user speed over the reference's where both replicas
    give as much, prompts of the same length; the ratio and its interval are over rounds, each
    with curves of its own, the speeds beside it on the curves of means."""
    found = curves(points(records, slo))
    turns = {(run.arm, run.sitting) for run in records.runs}
    beside = {arm for arm, sitting in turns if (reference, sitting) in turns}
    by_round = matched_by_round(records, reference, slo)
    rows = [
        (
            str(key),
            pair.load,
            number(pair.tokens_per_s_per_replica),
            number(pair.user),
            number(pair.reference_user),
            _matched_ratio(pair, by_round.get((key, pair.load)), is_paired=key.arm in beside),
            f"{max(run.error_rate for point in own for run in point.runs):.1%}",
        )
        for key, own in found.items()
        if key.arm != reference
        for pair in matched(own, found.get(key._replace(arm=reference), []))
    ]
    speeds_of_both = ("tokens/s/replica", "tokens/s/user", f"{reference}, tokens/s/user")
    header = ("arm", f"load of {reference}", *speeds_of_both, "ratio", "most errors")
    return Table(header, tuple(rows))


def _matched_ratio(pair: Matched, over: OverRounds | None, *, is_paired: bool) -> str:
    """Over rounds where two have it; else that of the curves' means, without an interval."""
    if over is None or over.spanned < 2:
        return ratio_text(pair.ratio, None)
    seen = over.estimate
    text = ratio_text(seen.mean, _known(seen.half_width), is_paired=is_paired)
    return (
        text if over.spanned == over.rounds else f"{text}, {over.spanned} of {over.rounds} rounds"
    )


class Column(NamedTuple):
    """A metric as tables show it, times `scale`; `better` is 1 where more of it is, -1 where
    less is, 0 where it is neither."""

    name: str
    metric: str
    scale: float
    better: int


COLUMNS = (
    Column("tokens/s/user", USER, 1.0, 1),
    Column("tokens/s/replica", REPLICA, 1.0, 1),
    Column("TTFT ms", "ttft_s", 1e3, -1),
    Column("TTFT p99 ms", "ttft_p99_s", 1e3, -1),
    Column("TPOT ms", "tpot_s", 1e3, -1),
    Column("ITL p50 ms", "itl_p50_s", 1e3, -1),
    Column("ITL p99 ms", "itl_p99_s", 1e3, -1),
    Column("goodput/s", "goodput_per_s", 1.0, 1),
    Column("errors %", "error_rate", 1e2, -1),
    Column("acceptance length", "acceptance_length", 1.0, 0),
    Column("budget", "budget_tokens", 1.0, 0),
    Column("verified", "verified_tokens", 1.0, 0),
    Column("wasted", "wasted_tokens", 1.0, 0),
    Column("CPU s per million tokens", "cpu_s_per_million_tokens", 1.0, 0),
    Column("GPU s per million tokens", "gpu_s_per_million_tokens", 1.0, 0),
    Column("client CPU %", "client_cpu_share", 1e2, 0),
)


def metrics_table(some: Sequence[Point]) -> Table:
    """Every metric of every point, with its interval where there is one."""
    return Table(
        ("arm at load", "runs", *(one.name for one in COLUMNS)),
        tuple(
            (
                f"{point.arm} at {point.label}",
                str(len(point.runs)),
                *(estimate_text(point.of(one.metric), one.scale) for one in COLUMNS),
            )
            for point in some
        ),
    )


def estimate_text(one: Estimate, scale: float) -> str:
    """The mean and half of its interval, both times `scale`."""
    interval = one.half_width * scale
    return number(one.mean * scale) + ("" if math.isnan(interval) else f" ± {number(interval)}")


def divergence_table(reports: Sequence[DivergenceReport]) -> Table:
    """A row per arm: how many greedy outputs part from the reference's, and at what margin."""
    return Table(
        ("arm", "prompts", "parted", "tokens equal until then", "widest top-2 margin, nats"),
        tuple(
            (
                one.arm,
                str(one.num_prompts),
                str(len(one.divergences)),
                f"{one.num_tokens:,}",
                f"{one.widest_margin:.4f}",
            )
            for one in reports
        ),
    )


WIDEST = 0.05
"""Half of an interval over its mean, beyond which a speed says little."""


def unsteady(some: Sequence[Point]) -> list[str]:
    """Points whose speed is not known to within `WIDEST`, with how well it is."""
    found = [
        (point, metric, point.of(metric))
        for point in some
        for metric in _SPEEDS
        if not point.of(metric).relative <= WIDEST
    ]
    return [
        f"{point.arm} at {point.label}: {_SPEEDS[metric]} {_spread(one)}"
        for point, metric, one in found
    ]


def _spread(one: Estimate) -> str:
    return "from one run" if math.isnan(one.half_width) else f"within {one.relative:.0%}"
