"""Who is there: when replicas were heard of, and from when on a silent one is gone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from cluster.messages import DrafterReport, IngressReport, TargetReport
from cluster.pace import SHORTEST_S, bounded_s, interval_s, lifetime_s

SETTLE_S = 2 * SHORTEST_S
AWAY_S = 3 * SHORTEST_S  # without a report of anybody
R = TypeVar("R", TargetReport, DrafterReport, IngressReport)


class Heard(NamedTuple, Generic[R]):
    """The last report of a replica, when it came, until when its next one has to, the interval
    it was told, and whether it counts: names that were heard once do not."""

    report: R
    at_s: float
    until_s: float
    told_s: float
    counts: bool


class Presence:
    """Tells replicas that are gone from a controller that was not there to hear them.

    Where nobody at all reports for `away_s`, it was the controller that was away, paused or cut
    off: with the next report everybody is remembered for as long again. A new one is settled
    after `settle_s`, or once all have had the time to report by the intervals they come with.
    `clock` is in seconds.
    """

    def __init__(
        self, clock: Callable[[], float], settle_s: float = 0.0, away_s: float = math.inf
    ) -> None:
        self.num_replicas = 0
        self.interval_s = SHORTEST_S  # until the next report, of who is known
        self._clock = clock
        self._away_s = away_s
        self._began_s = self._heard_s = clock()
        self._settled_s = self._began_s + settle_s
        self._all_until_s = -math.inf

    @property
    def is_settled(self) -> bool:
        return self._clock() >= self._settled_s

    def hear(self, told_s: float) -> float:
        """Somebody reports, who does so every `told_s`; what time it is."""
        now_s = self._clock()
        self.interval_s = interval_s(self.num_replicas)
        if now_s - self._heard_s > self._away_s:
            self._all_until_s = now_s + lifetime_s(self.interval_s)
        self._heard_s = now_s
        if not self.is_settled:
            self._settled_s = max(self._settled_s, self._began_s + 2 * bounded_s(told_s))
        return now_s

    def heard(self, report: R, told_s: float, known: Heard[R] | None) -> Heard[R]:
        """Of who has gone by `told_s` so far, and goes on with it until it is `known`."""
        before_s = bounded_s(told_s)
        now_told_s = before_s if known is None else self.interval_s
        until_s = self._heard_s + lifetime_s(max(before_s, now_told_s))
        counts = known is not None or before_s > SHORTEST_S
        return Heard(report, self._heard_s, until_s, now_told_s, counts)

    def tell_s(self, heard: Heard[R] | None) -> float:
        """When somebody is to report again; None is a name for which there is no room."""
        return self.interval_s if heard is None else heard.told_s

    def living(self, known: Mapping[str, Heard[R]]) -> list[Heard[R]]:
        now_s = self._clock()
        return [heard for heard in known.values() if self._is_there(heard, now_s)]

    def gone(self, known: Mapping[str, Heard[R]]) -> dict[str, Heard[R]]:
        now_s = self._clock()
        return {id_: one for id_, one in known.items() if not self._is_there(one, now_s)}

    def _is_there(self, heard: Heard[R], now_s: float) -> bool:
        return max(heard.until_s, self._all_until_s) >= now_s

    def count(self, known: Mapping[str, Heard[R]]) -> int:
        """Of those that live, the ones that count."""
        return sum(heard.counts for heard in self.living(known))
