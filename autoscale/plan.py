"""What one replica is told, from what all of them said. Every field is a function of its own.

Plans are advice with a time to live. Every function gives a neutral answer where it knows
nothing, and bounded ones always: a replica that follows a bad plan is slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from autoscale.fleet_load import ClassOutcomes, FleetLoad, ReplicaLoad, fleet_load
from autoscale.service_class import ServiceClass

_MIN_OUTCOMES = 20.0  # requests of a class that ended lately, before its attainment counts
_MAX_RELATIVE_COST = 8.0


@dataclass(frozen=True, slots=True)
class WeightLaw:
    """How much more a class weighs by the share of its promises that should be kept and are not:
    1 + `gain` times that share, up to `most`."""

    gain: float = 32.0
    most: float = 2.0


USUAL_LAW = WeightLaw()


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """The fleet's advice to a replica.

    `expected_requests` and `expected_prefill_tokens` are per step over the next interval,
    `class_weights` by service class (missing: 1). None and empty where local rules are to
    decide. They decide always how many seats there are (counts by step cost and the tightest
    promise lost 7 to 22 % of goodput in simulation), how long a request may wait for one (its
    promise says that), how long drafts are waited for, and how requests are routed by speed
    (what a plan added to either brought nothing there).
    """

    expected_requests: float | None = None
    expected_prefill_tokens: float | None = None
    class_weights: Mapping[str, float] = field(default_factory=dict)


NO_PLAN = ReplicaPlan()


def make_plans(
    loads: Sequence[ReplicaLoad], classes: Sequence[ServiceClass], law: WeightLaw = USUAL_LAW
) -> list[ReplicaPlan]:
    """A plan per replica, in their order."""
    fleet = fleet_load(loads)
    weights = class_weights(fleet, classes, law)
    shares = speed_shares(loads)
    return [
        ReplicaPlan(
            expected_requests=expected_requests(fleet, load, share),
            expected_prefill_tokens=expected_prefill_tokens(fleet, load, share),
            class_weights=weights,
        )
        for load, share in zip(loads, shares, strict=True)
    ]


def class_weights(
    fleet: FleetLoad, classes: Sequence[ServiceClass], law: WeightLaw = USUAL_LAW
) -> dict[str, float]:
    """More weight to classes whose promise is kept less often than it should be.

    The class that falls short least has weight 1; all have 1 while every promise is kept. They
    move verify budgets to requests at risk (design section 7). The usual law is the one that
    brought a latency class most under pressure, of those that cost at most a percent of
    throughput (`autoscale.simulation.weight_search`): what is verified for one class beyond its
    share is the less likely to be accepted.
    """
    deficits = {one.name: _deficit(one, fleet.outcomes.get(one.name)) for one in classes}
    least = min(deficits.values(), default=0.0)
    return {n: min(1 + law.gain * (d - least), law.most) for n, d in deficits.items()}


def _deficit(promised: ServiceClass, outcomes: ClassOutcomes | None) -> float:
    """By how much the attainment of a class falls short; 0 while little is known."""
    if outcomes is None or outcomes.num_ended < _MIN_OUTCOMES:
        return 0.0
    return max(0.0, promised.attainment - outcomes.num_met / outcomes.num_ended)


def speed_shares(loads: Sequence[ReplicaLoad]) -> list[float]:
    """Shares of the work to come, 1 on average, by the speed of every replica's steps."""
    speeds = [1 / _bounded_cost(load) for load in loads]
    mean = sum(speeds) / len(speeds) if speeds else 1.0
    return [speed / mean for speed in speeds]


def expected_requests(fleet: FleetLoad, load: ReplicaLoad, share: float) -> float:
    """Requests that this replica will have running: its own, drawn to its share of all.

    What waits anywhere will run somewhere; the whole fleet says more about the next second
    than one replica's queue does.
    """
    of_all = share * (fleet.running + fleet.waiting) / max(fleet.num_replicas, 1)
    return min(float(load.seats), (load.running + load.waiting + of_all) / 2)


def expected_prefill_tokens(fleet: FleetLoad, load: ReplicaLoad, share: float) -> float:
    """Prompt tokens in a coming step of this replica, from all traffic."""
    return share * fleet.prompt_tokens_per_s / max(fleet.num_replicas, 1) * load.step_s


def _bounded_cost(load: ReplicaLoad) -> float:
    return min(max(load.relative_step_cost, 1e-3), _MAX_RELATIVE_COST)
