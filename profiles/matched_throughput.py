"""A user's speed where two arms give as much: along what was measured, and never beyond it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from profiles.estimates import Estimate, estimate
from profiles.frontier import CurveKey, Point, Slo, curves, known_speeds, pareto, points_by_round
from profiles.load_records import LoadRecords


def measured(some: Iterable[Point]) -> list[Point]:
    """A curve's frontier, and what was measured at lighter loads than its fastest user's, by
    rising replica speed: there an arm is beaten by itself, and is what it is."""
    known = known_speeds(some)
    frontier = pareto(known)
    lighter = [p for p in known if p.replica < frontier[0].replica] if frontier else []
    return sorted(lighter, key=lambda p: p.replica) + frontier


def user_speed_at(some: Iterable[Point], tokens_per_s_per_replica: float) -> float:
    """A user's speed where a replica gives that many tokens per second, along what was measured.

    Linear between neighbours; NaN outside of what was measured: nothing is extrapolated.
    """
    curve = measured(some)
    if not curve:
        return math.nan
    x = [point.replica for point in curve]
    if not x[0] <= tokens_per_s_per_replica <= x[-1]:
        return math.nan
    return float(np.interp(tokens_per_s_per_replica, x, [point.user for point in curve]))


class Matched(NamedTuple):
    """User speed of an arm over the reference's where both replicas give as much: what the
    reference gave at `load` (`Point.label`)."""

    load: str
    tokens_per_s_per_replica: float
    user: float
    reference_user: float

    @property
    def ratio(self) -> float:
        return self.user / self.reference_user


def matched(arm: Sequence[Point], reference: Sequence[Point]) -> list[Matched]:
    """At every throughput that was measured of the reference and that the arm spans too."""
    return _matched(arm, measured(reference))


def _matched(arm: Sequence[Point], reference: Sequence[Point]) -> list[Matched]:
    pairs = [Matched(p.label, p.replica, user_speed_at(arm, p.replica), p.user) for p in reference]
    return [pair for pair in pairs if not math.isnan(pair.user)]


class OverRounds(NamedTuple):
    """A ratio over the `spanned` rounds, of `rounds`, whose curves have it."""

    estimate: Estimate
    spanned: int
    rounds: int


def matched_by_round(
    records: LoadRecords, reference: str, slo: Slo
) -> dict[tuple[CurveKey, str], OverRounds]:
    """Per curve and load of the reference the ratio over rounds, each with its own curves.

    What moves both speeds of a point at once moves them together here, so the interval has it.
    Rounds in which the arm does not span the reference's throughput say nothing, which is
    counted: those that do may be the arm's fast ones.
    """
    ratios: dict[tuple[CurveKey, str], list[float]] = defaultdict(list)
    rounds: Counter[tuple[CurveKey, str]] = Counter()
    for some in points_by_round(records, slo):
        found = curves(some)
        for key, own in found.items():
            base = known_speeds(found.get(key._replace(arm=reference), []))
            rounds.update((key, point.label) for point in base)
            for pair in _matched(own, base):
                ratios[key, pair.load].append(pair.ratio)
    return {
        cell: OverRounds(estimate(values), len(values), rounds[cell])
        for cell, values in ratios.items()
    }
