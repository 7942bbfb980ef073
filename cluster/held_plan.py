"""The plan a target replica holds: the newest it was given, for as long as that may be used."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autoscale.plan import NO_PLAN
from autoscale.plan_check import checked
from cluster.messages import TargetPlan
from cluster.pace import LONGEST_S, SHORTEST_S, lifetime_s

MAX_TTL_S = lifetime_s(LONGEST_S)


class HeldPlan:
    """Takes plans in the order of `(epoch, seq)`, whatever the order they arrive in.

    Of two controllers at once the one that started later is heard; when it falls silent, the
    other one is again, once the time to live is up. What cannot be in a plan is left out field
    by field and counted. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.plan: TargetPlan | None = None  # the last one taken, however old
        self.refused: Counter[str] = Counter()  # by field
        self.num_outdated = 0
        self._clock = clock
        self._taken_s = 0.0

    @property
    def age_s(self) -> float | None:
        return None if self.plan is None else self._clock() - self._taken_s

    @property
    def interval_s(self) -> float:
        """From one report to the next, as the last plan had it, however old."""
        return SHORTEST_S if self.plan is None else self.plan.interval_s

    @property
    def is_stale(self) -> bool:
        """Whether local rules decide: there is no plan, or its time to live is up."""
        return self.plan is None or self._clock() - self._taken_s > self.plan.ttl_s

    def take(self, plan: TargetPlan) -> bool:
        """Whether the plan is the one to go by from now on; False for one that is outdated."""
        held = self.plan
        is_newer = held is None or (plan.epoch, plan.seq) > (held.epoch, held.seq)
        if not (is_newer or self.is_stale):
            self.num_outdated += 1
            return False
        advice, refused = checked(plan.advice)
        ttl_s = plan.ttl_s
        if not (isinstance(ttl_s, int | float) and 0 < ttl_s <= MAX_TTL_S):
            ttl_s, advice, refused = 0.0, NO_PLAN, (*refused, "ttl_s")
        interval_s = plan.interval_s
        if not (isinstance(interval_s, int | float) and SHORTEST_S <= interval_s <= LONGEST_S):
            interval_s, refused = SHORTEST_S, (*refused, "interval_s")
        self.refused.update(refused)
        self.plan = replace(plan, advice=advice, ttl_s=ttl_s, interval_s=interval_s)
        self._taken_s = self._clock()
        return True

    def snapshot(self) -> dict[str, Any]:
        """As plain values, for whoever looks at the fleet."""
        return {
            "epoch": self.plan.epoch if self.plan else None,
            "seq": self.plan.seq if self.plan else None,
            "age_s": None if self.age_s is None else round(self.age_s, 3),
            "is_stale": self.is_stale,
            "refused": dict(self.refused),
            "outdated": self.num_outdated,
        }
