"""Results as tables: speeds and ratios per load point, and speed at matched throughput."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import NamedTuple

from profiles.frontier import (
    Estimate,
    Point,
    Slo,
    by_arm,
    load_label,
    matched,
    paired_ratios,
    points,
)
from profiles.load_records import LoadRecords

USER, REPLICA = "tokens_per_s_per_user", "tokens_per_s_per_replica"
_SPEEDS = {USER: "tokens/s/user", REPLICA: "tokens/s/replica"}


class Table(NamedTuple):
    """Text in rows of as many cells as the header has."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        lines = [self.header, tuple("---" for _ in self.header), *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def reference_arm(records: LoadRecords) -> str:
    """What everything is compared with: the arm whose run came first."""
    return records.runs[0].arm if records.runs else ""


def speed_table(records: LoadRecords, slo: Slo) -> Table:
    """A row per load point: tokens/s/replica, the ratio to the first arm, errors."""
    cells = {(p.arm, p.label): p for p in points(records, slo)}
    arms = tuple(dict.fromkeys(arm for arm, _ in cells))
    ratios = paired_ratios(records, REPLICA, reference_arm(records), slo)
    loads = dict.fromkeys(load_label(run) for run in records.runs)
    return Table(
        ("load", *arms),
        tuple(
            (load, *(_cell(cells.get((arm, load)), ratios.get((arm, load))) for arm in arms))
            for load in loads
        ),
    )


def _cell(point: Point | None, ratio: Estimate | None) -> str:
    if point is None:
        return ""
    errors = fmean(run.error_rate for run in point.runs)
    return f"{number(point.replica)} ({ratio_text(ratio)}; errors {errors:.1%})"


def ratio_text(ratio: Estimate | None) -> str:
    """`1.44x ± 0.02`; without an interval for a single run."""
    if ratio is None or math.isnan(ratio.mean):
        return "no ratio"
    interval = "" if math.isnan(ratio.half_width) else f" ± {ratio.half_width:.2f}"
    return f"{ratio.mean:.2f}x{interval}"


def number(value: float) -> str:
    """Three digits that matter, or a dash for what is not known."""
    if math.isnan(value):
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def matched_table(records: LoadRecords, slo: Slo) -> Table:
    """Per arm, its user speed over the first arm's where both replicas give as much."""
    arms = by_arm(points(records, slo))
    reference = reference_arm(records)
    rows = [
        (
            arm,
            number(pair.tokens_per_s_per_replica),
            number(pair.user),
            number(pair.reference_user),
            f"{pair.ratio:.2f}x",
            f"{max(run.error_rate for point in own for run in point.runs):.1%}",
        )
        for arm, own in arms.items()
        if arm != reference
        for pair in matched(own, arms[reference])
    ]
    header = ("arm", "tokens/s/replica", "tokens/s/user", reference, "ratio", "most errors")
    return Table(header, tuple(rows))


_COLUMNS = (
    ("tokens/s/user", USER, 1.0),
    ("tokens/s/replica", REPLICA, 1.0),
    ("TTFT ms", "ttft_s", 1e3),
    ("TTFT p99 ms", "ttft_p99_s", 1e3),
    ("TPOT ms", "tpot_s", 1e3),
    ("ITL p50 ms", "itl_p50_s", 1e3),
    ("ITL p99 ms", "itl_p99_s", 1e3),
    ("goodput/s", "goodput_per_s", 1.0),
    ("errors %", "error_rate", 1e2),
    ("acceptance length", "acceptance_length", 1.0),
    ("budget", "budget_tokens", 1.0),
    ("verified", "verified_tokens", 1.0),
    ("wasted", "wasted_tokens", 1.0),
    ("CPU s per million tokens", "cpu_s_per_million_tokens", 1.0),
    ("client CPU %", "client_cpu_share", 1e2),
)


def metrics_table(some: Sequence[Point]) -> Table:
    """Every metric of every point, with its interval where there is one."""
    return Table(
        ("arm at load", "runs", *(name for name, _, _ in _COLUMNS)),
        tuple(
            (
                f"{point.arm} at {point.label}",
                str(len(point.runs)),
                *(_estimate_text(point.of(metric), scale) for _, metric, scale in _COLUMNS),
            )
            for point in some
        ),
    )


def _estimate_text(one: Estimate, scale: float) -> str:
    interval = one.half_width * scale
    return number(one.mean * scale) + ("" if math.isnan(interval) else f" ± {number(interval)}")


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


def regressions(after: Sequence[Point], before: Sequence[Point]) -> list[str]:
    """Points whose speed fell by more than both intervals together, the worst first."""
    then = {(point.arm, point.label): point for point in before}
    fallen = [
        (now.of(metric).mean / old.of(metric).mean, now, metric, old)
        for now in after
        if (old := then.get((now.arm, now.label))) is not None
        for metric in _SPEEDS
        if _fell(old.of(metric), now.of(metric))
    ]
    return [
        f"{now.arm} at {now.label}: {_SPEEDS[metric]} {number(old.of(metric).mean)} -> "
        f"{number(now.of(metric).mean)} ({ratio:.2f}x)"
        for ratio, now, metric, old in sorted(fallen, key=lambda one: one[0])
    ]


def _fell(old: Estimate, new: Estimate) -> bool:
    widths = [one.half_width for one in (old, new) if not math.isnan(one.half_width)]
    return new.mean < old.mean - sum(widths)
