"""What one replica is told, from what all of them said. Every field is a function of its own.

Plans are advice with a time to live. Every function gives a neutral answer where it knows
nothing, and bounded ones always: a replica that follows a bad plan is slower, never wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from autoscale.fleet_load import ClassOutcomes, FleetLoad, ReplicaLoad, fleet_load
from autoscale.service_class import ServiceClass
from autoscale.step_cost import StepCostTable

_WEIGHT_GAIN = 8.0
_MAX_WEIGHT = 1.5
_MIN_OUTCOMES = 20.0  # requests of a class that ended lately, before its attainment counts
_MAX_RELATIVE_COST = 8.0
_MIN_DRAFTS = 256  # of the fleet, before their acceptance says how long to wait for them
_WAIT_SHARE = 0.8  # of the wait at which drafting would just break even
_MAX_PER_STEP = 16.0  # tokens that a request can commit
_PATIENCE = 4.0  # times the usual wait
_SHED_SHARE = 0.9  # of the promised time to the first token, that a request may wait for a seat


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """The fleet's advice to a replica.

    `expected_requests` and `expected_prefill_tokens` are per step over the next interval,
    `class_weights` by service class (missing: 1), `draft_wait_s` the longest wait for drafts
    that can pay, `seats` the requests that may run together, `shed_after_s` by class how long
    a request may wait for a seat, `routing_weight` this replica's share of new requests
    against the others'. None and empty where local rules are to decide.
    """

    expected_requests: float | None = None
    expected_prefill_tokens: float | None = None
    class_weights: Mapping[str, float] = field(default_factory=dict)
    draft_wait_s: float | None = None
    seats: int | None = None
    shed_after_s: Mapping[str, float] = field(default_factory=dict)
    routing_weight: float = 1.0


NO_PLAN = ReplicaPlan()


def make_plans(
    loads: Sequence[ReplicaLoad],
    classes: Sequence[ServiceClass],
    step_costs: Sequence[StepCostTable | None] | None = None,
) -> list[ReplicaPlan]:
    """A plan per replica, in their order; `step_costs` are what their engines usually take."""
    fleet = fleet_load(loads)
    weights = class_weights(fleet, classes)
    shed_after = shed_after_s(classes)
    shares = routing_weights(loads)
    most_seats = seats(loads, classes, step_costs or [None] * len(loads))
    return [
        ReplicaPlan(
            expected_requests=expected_requests(fleet, load, share),
            expected_prefill_tokens=expected_prefill_tokens(fleet, load, share),
            class_weights=weights,
            draft_wait_s=draft_wait_s(fleet, load),
            seats=most,
            shed_after_s=shed_after,
            routing_weight=share,
        )
        for load, share, most in zip(loads, shares, most_seats, strict=True)
    ]


def class_weights(fleet: FleetLoad, classes: Sequence[ServiceClass]) -> dict[str, float]:
    """More weight to classes whose promise is kept less often than it should be.

    The class that falls short least has weight 1, the others up to 1.5; all have 1 while every
    promise is kept. They move verify budgets to requests at risk (design section 7). Larger
    weights cost more throughput than they bring: what is verified for one class beyond its
    share is the less likely to be accepted.
    """
    deficits = {one.name: _deficit(one, fleet.outcomes.get(one.name)) for one in classes}
    least = min(deficits.values(), default=0.0)
    return {n: min(1 + _WEIGHT_GAIN * (d - least), _MAX_WEIGHT) for n, d in deficits.items()}


def _deficit(promised: ServiceClass, outcomes: ClassOutcomes | None) -> float:
    """By how much the attainment of a class falls short; 0 while little is known."""
    if outcomes is None or outcomes.num_ended < _MIN_OUTCOMES:
        return 0.0
    return max(0.0, promised.attainment - outcomes.num_met / outcomes.num_ended)


def routing_weights(loads: Sequence[ReplicaLoad]) -> list[float]:
    """Shares of new requests, 1 on average, by the speed of every replica's steps."""
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


def draft_wait_s(fleet: FleetLoad, load: ReplicaLoad) -> float | None:
    """How long a step may wait for drafts: what they save, and a little less.

    With a tokens accepted per draft, waiting w in a step of T pays while (1 + a) / (T + w)
    exceeds 1 / T, that is for w below a * T. That is said of the wait on average: while this
    replica's is below it, an answer that is late by chance is worth some more patience, as
    what was waited so far is spent either way. Acceptance is the fleet's: a replica that no
    longer waits for drafts would never learn that they are worth it.
    """
    if fleet.num_drafts < _MIN_DRAFTS or load.step_s <= 0:
        return None
    saved_s = fleet.accepted_tokens / fleet.num_drafts * load.step_s
    limit_s = _WAIT_SHARE * saved_s
    if 0 < load.draft_wait_s < limit_s:
        limit_s = max(limit_s, _PATIENCE * load.draft_wait_s)
    return limit_s


def seats(
    loads: Sequence[ReplicaLoad],
    classes: Sequence[ServiceClass],
    step_costs: Sequence[StepCostTable | None],
) -> list[int | None]:
    """Per replica, as many requests as decode together within the tightest promised time per
    token; None where all may.

    On a node as slow as that one is, each step committing what it commits there now. Half of
    the seats at least: a promise that a machine cannot keep is none to idle for.
    """
    if not classes or not loads:
        return [None] * len(loads)
    tightest_s = min(one.tpot_s for one in classes)
    taken = np.arange(1, max(load.seats for load in loads) + 1)
    # A few kinds of engine, many replicas: each kind's costs are written out once.
    tables = {id(table): table for table in step_costs if table is not None}
    costs_s = {
        key: np.maximum.accumulate(table.at(taken) + table.request_s * taken)
        for key, table in tables.items()
    }
    found: list[int | None] = []
    for load, table in zip(loads, step_costs, strict=True):
        if table is None:
            found.append(None)
            continue
        per_step = load.tokens_per_s * load.step_s / max(load.running, 1)
        limit_s = tightest_s * min(max(per_step, 1.0), _MAX_PER_STEP) / _bounded_cost(load)
        fitting = min(int(costs_s[id(table)].searchsorted(limit_s, "right")), load.seats)
        found.append(max(fitting, -(-load.seats // 2)))
    return found


def _bounded_cost(load: ReplicaLoad) -> float:
    return min(max(load.relative_step_cost, 1e-3), _MAX_RELATIVE_COST)


def shed_after_s(classes: Sequence[ServiceClass]) -> dict[str, float]:
    """How long a request may wait for a seat before its promise is past keeping."""
    return {one.name: _SHED_SHARE * one.ttft_s for one in classes if math.isfinite(one.ttft_s)}
