"""Two results side by side: what became worse, by how much, and what only one of them has."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from loadtest.report.tables import COLUMNS, Column, Table, estimate_text, number
from profiles.estimates import Estimate, difference, unpaired_ratio
from profiles.frontier import Point

JUDGED = tuple(column for column in COLUMNS if column.better)
WORSE, BETTER, SAME, UNKNOWN, GONE, NEW = (
    "worse",
    "better",
    "within the interval",
    "no interval",
    "only before",
    "only now",
)


class Change(NamedTuple):
    """A metric of an arm at a load in both results, whose runs share no rounds.

    `difference` is now less before, `ratio` now over before (NaN where that was mostly 0).
    """

    where: str
    column: Column
    before: Estimate
    now: Estimate
    difference: Estimate
    ratio: Estimate

    @property
    def verdict(self) -> str:
        """By the 95 % interval of the difference; unknown from a single run of either."""
        if math.isnan(self.now.mean):
            return GONE
        if math.isnan(self.before.mean):
            return NEW
        if math.isnan(self.difference.half_width):
            return UNKNOWN
        if abs(self.difference.mean) <= self.difference.half_width:
            return SAME
        return BETTER if self.difference.mean * self.column.better > 0 else WORSE

    @property
    def text(self) -> str:
        """`75 → 37.5 (0.50x ± 0.02)`; what was mostly 0 before by its difference."""
        scale = self.column.scale
        said = f"{number(self.before.mean * scale)} → {number(self.now.mean * scale)}"
        if math.isnan(self.difference.mean):
            return said
        if math.isnan(self.ratio.mean):
            sign = "+" if self.difference.mean > 0 else ""
            return f"{said} ({sign}{estimate_text(self.difference, scale)})"
        interval = "" if math.isnan(self.ratio.half_width) else f" ± {self.ratio.half_width:.2f}"
        return f"{said} ({self.ratio.mean:.2f}x{interval})"

    @property
    def severity(self) -> float:
        """How many times worse; errors where there were none come first."""
        ratio = self.ratio.mean
        return max(ratio, 1 / ratio) if ratio > 0 else math.inf


class Comparison(NamedTuple):
    """What two results say of each other, in words, and every change behind it.

    `worse` is what became so beyond its interval, the worst first; `missing` are arms at loads,
    and metrics of them, that one result lacks; `unjudged` arms at loads with a single run.
    """

    changes: tuple[Change, ...]
    worse: list[str]
    missing: list[str]
    unjudged: list[str]

    def findings(self) -> dict[str, list[str]]:
        """By what they are; without those there are none of, but for what became worse."""
        found = {
            "Became worse": self.worse or ["nothing beyond its interval"],
            "Not judged, as one result has a single run": self.unjudged,
            "Only one of the two has": self.missing,
        }
        return {title: lines for title, lines in found.items() if lines}

    def table(self) -> Table:
        """A row per arm and load, a column per metric with its direction."""
        rows: dict[str, dict[Column, str]] = {}
        for one in self.changes:
            rows.setdefault(one.where, {})[one.column] = f"{one.text}, {one.verdict}"
        heads = (f"{one.name} ({'more' if one.better > 0 else 'less'} is better)" for one in JUDGED)
        return Table(
            ("arm at load", *heads),
            tuple((where, *(of.get(one, "-") for one in JUDGED)) for where, of in rows.items()),
        )


def compare(now: Sequence[Point], before: Sequence[Point]) -> Comparison:
    """Two results of the same arms and loads, which share no rounds."""
    points, earlier = _by_place(now), _by_place(before)
    lost = [f"{where}: {GONE}" for where in earlier if where not in points]
    new = [f"{where}: {NEW}" for where in points if where not in earlier]
    changes = tuple(
        change
        for where in points
        if where in earlier
        for change in _changes(where, points[where], earlier[where])
    )
    worse = sorted((one for one in changes if one.verdict == WORSE), key=lambda one: -one.severity)
    parts = [
        f"{one.where}: {one.column.name} {one.verdict}"
        for one in changes
        if one.verdict in (GONE, NEW)
    ]
    return Comparison(
        changes,
        [f"{one.where}: {one.column.name} {one.text}" for one in worse],
        [*lost, *new, *parts],
        list(dict.fromkeys(one.where for one in changes if one.verdict == UNKNOWN)),
    )


def _by_place(some: Sequence[Point]) -> dict[str, Point]:
    return {f"{point.arm} at {point.label}": point for point in some}


def _changes(where: str, now: Point, before: Point) -> Iterator[Change]:
    """Of every judged metric that either has."""
    for column in JUDGED:
        values, base = now.values(column.metric), before.values(column.metric)
        if not all(map(math.isnan, (*values, *base))):
            yield Change(
                where,
                column,
                before.of(column.metric),
                now.of(column.metric),
                difference(values, base),
                unpaired_ratio(values, base),
            )
