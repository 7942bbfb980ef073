"""Loads in, plans out, model by model: made in ticks, handed out at any time in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoscale.fleet_load import FleetLoad, ReplicaLoad, fleet_load
from autoscale.plan import NO_PLAN, ReplicaPlan, make_plans
from autoscale.service_class import ServiceClass


class FleetPlans:
    """The last load of every replica and the plans that follow from them."""

    def __init__(self, classes: Mapping[str, Sequence[ServiceClass]] | None = None) -> None:
        """`classes` are what each model promises."""
        self.num_impossible_loads = 0
        self._classes = dict(classes or {})
        self._loads: dict[str, dict[str, ReplicaLoad]] = {}  # by model and replica
        self._plans: dict[str, ReplicaPlan] = {}

    def report(
        self, model_id: str, replica_id: str, load: ReplicaLoad, relative_step_cost: float = 1.0
    ) -> None:
        """What a replica says of itself, and what its steps take over those of its kind; what
        no replica can say is counted and left out."""
        if load.impossible() is not None:
            self.num_impossible_loads += 1
            return
        if relative_step_cost != load.relative_step_cost:
            load = replace(load, relative_step_cost=relative_step_cost)
        self._loads.setdefault(model_id, {})[replica_id] = load

    def forget(self, model_id: str, replica_id: str) -> None:
        self._loads.get(model_id, {}).pop(replica_id, None)
        self._plans.pop(replica_id, None)

    def tick(self) -> None:
        """Make every replica's plan anew."""
        for model_id, loads in self._loads.items():
            plans = make_plans(list(loads.values()), self._classes.get(model_id, ()))
            self._plans.update(zip(loads, plans, strict=True))

    def of(self, replica_id: str) -> ReplicaPlan:
        """As of the last tick."""
        return self._plans.get(replica_id, NO_PLAN)

    def total(self, model_id: str) -> FleetLoad:
        """All replicas of a model together."""
        return fleet_load(self._loads.get(model_id, {}).values())
