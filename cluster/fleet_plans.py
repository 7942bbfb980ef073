"""Loads in, plans out, model by model: made in ticks, handed out at any time in between."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from autoscale.draft_load import DraftLoads
from autoscale.fleet_load import FleetLoad, ReplicaLoad, fleet_load
from autoscale.plan import NO_PLAN, ReplicaPlan, make_plans
from autoscale.service_class import ServiceClass
from autoscale.trend import Trend, expected_level

_DRAFTS_MEMORY_S = 30.0  # of what became of drafts


@dataclass(slots=True)
class _Course:
    """How a model's traffic moves, and what became of its drafts lately."""

    arrivals: Trend
    num_drafts: float = 0.0
    accepted_tokens: float = 0.0

    def follow(self, arrivals_per_s: float, now_s: float) -> None:
        kept = math.exp(-max(now_s - self.arrivals.at_s, 0.0) / _DRAFTS_MEMORY_S)
        self.num_drafts *= kept
        self.accepted_tokens *= kept
        self.arrivals = self.arrivals.followed(arrivals_per_s, now_s)

    def count(self, before: ReplicaLoad, now: ReplicaLoad) -> None:
        """What a replica drafted between two of its reports."""
        self.num_drafts += max(now.num_drafts - before.num_drafts, 0)
        self.accepted_tokens += max(now.accepted_tokens - before.accepted_tokens, 0)


class FleetPlans:
    """The last load of every replica and the plans that follow from them."""

    def __init__(self, classes: Mapping[str, Sequence[ServiceClass]] | None = None) -> None:
        """`classes` are what each model promises."""
        self.num_impossible_loads = 0
        self._classes = dict(classes or {})
        self._loads: dict[str, dict[str, ReplicaLoad]] = {}  # by model and replica
        self._plans: dict[str, ReplicaPlan] = {}
        self._draft_loads = DraftLoads()
        self._courses: dict[str, _Course] = {}  # by model, from the first tick on

    def report(
        self,
        model_id: str,
        replica_id: str,
        load: ReplicaLoad,
        now_s: float,
        relative_step_cost: float = 1.0,
    ) -> None:
        """What a replica says of itself, and what its steps take over those of its kind; what
        no replica can say is counted and left out."""
        if load.impossible() is not None:
            self.num_impossible_loads += 1
            return
        if relative_step_cost != load.relative_step_cost:
            load = replace(load, relative_step_cost=relative_step_cost)
        loads = self._loads.setdefault(model_id, {})
        if replica_id in loads and model_id in self._courses:
            self._courses[model_id].count(loads[replica_id], load)
        loads[replica_id] = load
        self._draft_loads.follow(replica_id, load.drafts_per_s, now_s)

    def drafts_per_s(self) -> dict[str, float]:
        """What every replica wants, of those that have been followed for a while."""
        return self._draft_loads.known()

    def forget(self, model_id: str, replica_id: str) -> None:
        self._loads.get(model_id, {}).pop(replica_id, None)
        self._plans.pop(replica_id, None)
        self._draft_loads.forget(replica_id)

    def tick(self, now_s: float) -> None:
        """Make every replica's plan anew."""
        for model_id, loads in self._loads.items():
            arrivals_per_s = sum(load.arrivals_per_s for load in loads.values())
            if model_id not in self._courses:
                self._courses[model_id] = _Course(Trend(arrivals_per_s, 0.0, now_s))
            self._courses[model_id].follow(arrivals_per_s, now_s)
            plans = make_plans(list(loads.values()), self._classes.get(model_id, ()))
            self._plans.update(zip(loads, plans, strict=True))

    def of(self, replica_id: str) -> ReplicaPlan:
        """As of the last tick."""
        return self._plans.get(replica_id, NO_PLAN)

    def total(self, model_id: str, drafters_busy: Sequence[float] = ()) -> FleetLoad:
        """All replicas of a model together; `drafters_busy` are the shares of their time that
        its drafter replicas draft."""
        load = fleet_load(self._loads.get(model_id, {}).values())
        if drafters_busy:
            load = replace(load, drafter_busy=math.fsum(drafters_busy) / len(drafters_busy))
        course = self._courses.get(model_id)
        if course is None:
            return load
        arrivals, drafts = course.arrivals, course.num_drafts
        return replace(
            load,
            expected_arrivals_per_s=expected_level(arrivals.level, arrivals),
            accepted_per_draft=course.accepted_tokens / drafts if drafts >= 1 else None,
        )
