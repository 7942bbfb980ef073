"""Throughput against latency: what a run's timestamps say, and which runs nobody beats.

Times are in seconds from when a request was due. A token is where its chunk arrived; the gaps
between arrivals are what a reader sees (`itl_s`), with chunks less than half a millisecond apart as
one, however a server cuts them: those of one message. The time per token is a request's mean
(`tpot_s`). Pure: everything is computed from the rows of `profiles.load_records`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean
from typing import NamedTuple, Protocol

import numpy as np

from profiles.estimates import Estimate, estimate, unpaired_ratio
from profiles.load_records import OK, LoadRecords, RequestRow, RunRow

_MICRO = 1e-6
_TOGETHER_US = 500  # apart, within which chunks arrive as one


class Slo(NamedTuple):
    """What a request is promised: its first token, and every later one on average."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class Latency:
    """One answered request. `tpot_s` is NaN for a single token; `itl_s` gaps between arrivals."""

    ttft_s: float
    tpot_s: float
    itl_s: tuple[float, ...]
    e2e_s: float

    def meets(self, slo: Slo) -> bool:
        """Whether both promises are kept; an answer of one token has the first alone."""
        return self.ttft_s <= slo.ttft_s and not self.tpot_s > slo.tpot_s


def latency(request: RequestRow) -> Latency:
    """From the chunks of a request with at least one."""
    at_s = arrivals_s(request)
    late_s = max(request.sent_s - request.due_s, 0.0)  # a client behind its load hides nothing
    later_tokens = request.output_tokens - 1
    return Latency(
        ttft_s=late_s + at_s[0],
        tpot_s=(at_s[-1] - at_s[0]) / later_tokens if later_tokens else math.nan,
        itl_s=tuple(gap * _MICRO for gap in request.gap_us[1:] if gap >= _TOGETHER_US),
        e2e_s=late_s + at_s[-1],
    )


def arrivals_s(request: RequestRow) -> list[float]:
    """When each chunk arrived, from when the request was sent."""
    return [us * _MICRO for us in accumulate(request.gap_us)]


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """One run in numbers; NaN where nothing was answered or the server does not count.

    `tokens_per_s_per_user` are tokens after the first over the time they took, of all requests
    together; `tokens_per_s_per_replica` all tokens. Both look at the time of full load alone:
    what comes after is another, falling load. `acceptance_length` is tokens committed per
    verified draft, the bonus token included; `budget_tokens` draft tokens verified per verified
    draft, `wasted_tokens` those of the run that were rejected. GPU-seconds are of GPUs that the
    arm held, busy or not, from the run's start to its last answer.
    """

    num_requests: int
    error_rate: float
    ttft_s: float
    ttft_p99_s: float
    tpot_s: float
    itl_p50_s: float
    itl_p99_s: float
    tokens_per_s_per_user: float
    tokens_per_s_per_replica: float
    goodput_per_s: float
    acceptance_length: float
    verified_tokens: float
    wasted_tokens: float
    budget_tokens: float
    cpu_s_per_million_tokens: float
    gpu_s_per_million_tokens: float
    client_cpu_share: float


METRICS = tuple(RunMetrics.__slots__)


def run_metrics(run: RunRow, requests: Sequence[RequestRow], slo: Slo) -> RunMetrics:
    """The metrics of one run from its requests.

    Tokens of requests that ended in an error count until then for throughput, as the server
    computed and the user saw them; latencies are of answered requests.
    """
    answered = [latency(row) for row in requests if row.status == OK and row.gap_us]
    tokens = sum(_tokens_until(row, run.window_s) for row in requests)
    later_tokens, later_s = _decoding_until(requests, run.window_s)
    counted = run.verified_drafts > 0
    accepted = run.accepted_tokens
    all_tokens = sum(row.output_tokens for row in requests)
    return RunMetrics(
        num_requests=len(requests),
        error_rate=sum(row.status != OK for row in requests) / max(len(requests), 1),
        ttft_s=_mean([one.ttft_s for one in answered]),
        ttft_p99_s=_percentile([one.ttft_s for one in answered], 99),
        tpot_s=_mean([one.tpot_s for one in answered if not math.isnan(one.tpot_s)]),
        itl_p50_s=_percentile([gap for one in answered for gap in one.itl_s], 50),
        itl_p99_s=_percentile([gap for one in answered for gap in one.itl_s], 99),
        tokens_per_s_per_user=_ratio(later_tokens, later_s),
        tokens_per_s_per_replica=_ratio(tokens, run.window_s * run.num_replicas),
        goodput_per_s=_ratio(sum(one.meets(slo) for one in answered), run.wall_s),
        acceptance_length=1 + accepted / run.verified_drafts if counted else math.nan,
        verified_tokens=run.draft_tokens if run.draft_tokens >= 0 else math.nan,
        wasted_tokens=run.draft_tokens - accepted if run.draft_tokens >= 0 else math.nan,
        budget_tokens=run.draft_tokens / run.verified_drafts if counted else math.nan,
        cpu_s_per_million_tokens=_ratio(run.cpu_s * 1e6, all_tokens)
        if run.cpu_s >= 0
        else math.nan,
        gpu_s_per_million_tokens=_ratio(run.num_gpus * run.wall_s * 1e6, all_tokens)
        if run.num_gpus > 0
        else math.nan,
        client_cpu_share=_ratio(run.client_cpu_s, run.wall_s),
    )


def _tokens_until(request: RequestRow, time_s: float) -> int:
    """Tokens that had arrived `time_s` after the run's start."""
    pairs = zip(arrivals_s(request), request.chunk_tokens, strict=True)
    return sum(n for at_s, n in pairs if request.sent_s + at_s <= time_s)


def _decoding_until(requests: Iterable[RequestRow], time_s: float) -> tuple[int, float]:
    """Tokens after the first arrival until `time_s`, and the seconds from first to last."""
    tokens, seconds = 0, 0.0
    for row in requests:
        seen = [(at, n) for at, n in _together(row) if row.sent_s + at <= time_s]
        if len(seen) > 1:
            tokens += sum(n for _, n in seen[1:])
            seconds += seen[-1][0] - seen[0][0]
    return tokens, seconds


def _together(request: RequestRow) -> list[tuple[float, int]]:
    """What arrived as one: when the last of it did, and its tokens."""
    found: list[tuple[float, int]] = []
    chunks = zip(arrivals_s(request), request.gap_us, request.chunk_tokens, strict=True)
    for at_s, gap_us, num_tokens in chunks:
        before = found.pop()[1] if found and gap_us < _TOGETHER_US else 0
        found.append((at_s, before + num_tokens))
    return found


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else math.nan


def _ratio(above: float, below: float) -> float:
    return above / below if below > 0 else math.nan


class _Loaded(Protocol):
    @property
    def load(self) -> str: ...
    @property
    def load_value(self) -> float: ...
    @property
    def trace(self) -> str: ...
    @property
    def context_tokens(self) -> int: ...


def load_label(one: _Loaded) -> str:
    """`closed:8`, `poisson:2.5`, `trace:1a2b3c4d`; with prompts of a set length `closed:8@1024`."""
    context = f"@{one.context_tokens}" if one.context_tokens else ""
    return f"{one.load}:{one.trace or f'{one.load_value:g}'}{context}"


@dataclass(frozen=True, slots=True)
class Point:
    """An arm at a load point: its runs, and the estimate of every metric over them."""

    arm: str
    load: str
    load_value: float
    trace: str
    context_tokens: int
    runs: tuple[RunMetrics, ...]

    @property
    def label(self) -> str:
        """See `load_label`."""
        return load_label(self)

    def values(self, metric: str) -> list[float]:
        """One of `METRICS` in every run."""
        return [getattr(run, metric) for run in self.runs]

    def of(self, metric: str) -> Estimate:
        """The estimate of one of `METRICS`."""
        return estimate(self.values(metric))

    @property
    def user(self) -> float:
        """Tokens per second a user sees."""
        return self.of("tokens_per_s_per_user").mean

    @property
    def replica(self) -> float:
        """Tokens per second a replica gives."""
        return self.of("tokens_per_s_per_replica").mean


def by_run(records: LoadRecords) -> dict[str, list[RequestRow]]:
    """The requests of every run."""
    requests: dict[str, list[RequestRow]] = defaultdict(list)
    for row in records.requests:
        requests[row.run_id].append(row)
    return requests


def points(records: LoadRecords, slo: Slo) -> list[Point]:
    """Every arm at every load point, in the order in which they were first run."""
    requests = by_run(records)
    cells: dict[tuple[str, str, float, str, int], list[RunMetrics]] = defaultdict(list)
    for run in records.runs:
        key = (run.arm, run.load, run.load_value, run.trace, run.context_tokens)
        cells[key].append(run_metrics(run, requests[run.run_id], slo))
    return [Point(*key, tuple(runs)) for key, runs in cells.items()]


def points_by_round(records: LoadRecords, slo: Slo) -> list[list[Point]]:
    """The points of every round by itself, of one run each."""
    rounds: dict[tuple[int, int], list[RunRow]] = defaultdict(list)
    for run in records.runs:
        rounds[run.visit, run.round].append(run)
    return [points(records._replace(runs=tuple(runs)), slo) for runs in rounds.values()]


def by_arm(some: Iterable[Point]) -> dict[str, list[Point]]:
    """Points grouped by arm, in order."""
    arms: dict[str, list[Point]] = defaultdict(list)
    for point in some:
        arms[point.arm].append(point)
    return dict(arms)


class CurveKey(NamedTuple):
    """What one curve is of: prompts of another length are another curve."""

    arm: str
    context_tokens: int

    def __str__(self) -> str:
        return f"{self.arm} @{self.context_tokens}" if self.context_tokens else self.arm


def curves(some: Iterable[Point]) -> dict[CurveKey, list[Point]]:
    """Points grouped by arm and length of prompts, in order."""
    found: dict[CurveKey, list[Point]] = defaultdict(list)
    for point in some:
        found[CurveKey(point.arm, point.context_tokens)].append(point)
    return dict(found)


def pareto(some: Iterable[Point]) -> list[Point]:
    """Points of a curve that none beats in user and in replica speed at once, by rising replica
    speed.

    Points without either speed are left out.
    """
    known = known_speeds(some)
    best: list[Point] = []
    for point in sorted(known, key=lambda p: (-p.replica, -p.user)):
        if not best or point.user > best[-1].user:
            best.append(point)
    return best[::-1]


def known_speeds(some: Iterable[Point]) -> list[Point]:
    """Points that have both speeds."""
    return [p for p in some if not (math.isnan(p.user) or math.isnan(p.replica))]


class Ratio(NamedTuple):
    """A metric of an arm over the reference's. `is_paired` where it is the mean over rounds in
    which both took turns on one server; else both stand for themselves, as of other minutes."""

    estimate: Estimate
    is_paired: bool


def ratios(
    records: LoadRecords, metric: str, reference: str, slo: Slo
) -> dict[tuple[str, str], Ratio]:
    """Per arm and load point (`Point.label`) an arm's metric over the reference's.

    Runs of the same round of one sitting at a server are paired: interleaved, they share what
    the machine was doing, so the mean of their ratios is steadier than the ratio of means. With
    fewer than two such rounds the runs of either side are taken for themselves.
    """
    requests = by_run(records)
    cells: dict[tuple[str, str], dict[tuple[str, int], float]] = defaultdict(dict)
    for run in records.runs:
        value = getattr(run_metrics(run, requests[run.run_id], slo), metric)
        cells[run.arm, load_label(run)][run.sitting, run.round] = value
    found = {}
    for (arm, load), own in cells.items():
        base = cells.get((reference, load))
        if base is not None:
            pairs = [_ratio(own[one], base[one]) for one in own if one in base]
            is_paired = len(pairs) > 1
            found[arm, load] = Ratio(
                estimate(pairs)
                if is_paired
                else unpaired_ratio(list(own.values()), list(base.values())),
                is_paired,
            )
    return found
