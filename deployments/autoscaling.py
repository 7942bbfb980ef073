"""One policy for all pools of an application, as Ray Serve calls it.

In a Serve file: `autoscaling_policy: {policy_function: deployments.autoscaling:fleet_policy}`
under the application. Serve calls it ten times a second in its controller, where an exception
would stop every application from scaling: there is none.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Container, Mapping
from dataclasses import asdict
from typing import Any, Protocol

from autoscale.replica_counts import (
    Bounds,
    DrafterPool,
    TargetPool,
    drafter_replicas,
    drafters_of_fixed_targets,
    target_replicas,
)
from autoscale.seat_capacity import SeatCapacity
from autoscale.trend import Trend, lasting_level

logger = logging.getLogger(__name__)

TARGET, DRAFTER = "Target:", "Drafter:"  # deployments are named by their model

# What targets report to the policy: seats that are wanted, and those that keep promises, as they
# saw (who saw too little says nothing of it) and as they are expected to.
DEMAND, SEATS, EXPECTED_SEATS = "demand_seats", "seats", "expected_seats"
BUSY, WAIT = "busy", "wait_steps"  # and what drafters do


class Context(Protocol):
    """What is used of Ray Serve's `AutoscalingContext`."""

    deployment_name: str
    current_num_replicas: int
    target_num_replicas: int
    capacity_adjusted_min_replicas: int
    capacity_adjusted_max_replicas: int
    total_queued_requests: float | None
    aggregated_metrics: Mapping[str, Mapping[Any, float]] | None
    policy_state: Mapping[str, Any]
    current_time: float | None


Contexts = Mapping[Any, Context]
Decisions = tuple[dict[Any, int], dict[Any, dict[str, Any]]]


class Drafted(Protocol):
    """What is used of `drafters.server.ServerStats`, counted since the drafter began."""

    @property
    def batches(self) -> int: ...
    @property
    def merged_steps(self) -> int: ...
    @property
    def total_step_s(self) -> float: ...
    @property
    def total_wait_s(self) -> float: ...


def target_stats(demand_seats: float, capacity: SeatCapacity) -> dict[str, float]:
    """What a target reports to the policy."""
    seen = {} if capacity.seen is None else {SEATS: capacity.seen}
    return {DEMAND: demand_seats, EXPECTED_SEATS: capacity.expected} | seen


def drafter_stats(before: Drafted, now: Drafted, elapsed_s: float) -> dict[str, float]:
    """What a drafter reports to the policy of the `elapsed_s` between two counts."""
    drafted_s, steps = (
        now.total_step_s - before.total_step_s,
        now.merged_steps - before.merged_steps,
    )
    waited_s, batches = now.total_wait_s - before.total_wait_s, now.batches - before.batches
    wait_steps = waited_s / batches / (drafted_s / steps) if batches and drafted_s > 0 else 0.0
    return {BUSY: drafted_s / max(elapsed_s, 1e-3), WAIT: wait_steps}


def fleet_policy(contexts: Contexts) -> Decisions:
    """Replicas of every deployment that scales, and what to remember of it."""
    counts: dict[Any, int] = {}
    states: dict[Any, dict[str, Any]] = {}
    for id_, context in contexts.items():
        try:
            counts[id_], states[id_] = _as_it_is(context), dict(context.policy_state or {})
        except Exception:
            logger.exception("nothing is known of %s: it stays as it is", id_)
            counts[id_], states[id_] = context.target_num_replicas, {}
    by_name = {context.deployment_name: id_ for id_, context in contexts.items()}
    for name, id_ in by_name.items():
        try:
            if name.startswith(TARGET):
                drafters = by_name.get(DRAFTER + name.removeprefix(TARGET))
                decided, states[id_] = _decide(contexts, id_, drafters)
                counts |= decided
            elif _are_drafters_of_fixed_targets(name, by_name) and _numbers(contexts[id_], BUSY):
                counts[id_] = drafters_of_fixed_targets(_drafter_pool(contexts[id_]))
        except Exception:
            logger.exception("no decision for %s: it stays as it is", name)
    return counts, states


def _are_drafters_of_fixed_targets(name: str, scaling: Container[str]) -> bool:
    return name.startswith(DRAFTER) and TARGET + name.removeprefix(DRAFTER) not in scaling


def _decide(contexts: Contexts, id_: Any, drafters: Any) -> tuple[dict[Any, int], dict[str, Any]]:
    """For one model's pools; `drafters` is None where they do not scale."""
    context = contexts[id_]
    if not _numbers(context, DEMAND):  # no replica has said anything yet
        return {}, dict(context.policy_state or {})
    pool = _target_pool(context)
    now_s = float(context.current_time or 0.0)
    trend = _trend(context.policy_state or {}, pool, now_s)
    wanted = target_replicas(pool, lasting_level(pool.demand_seats, trend))
    counts = {id_: wanted}
    if drafters is not None and _numbers(contexts[drafters], BUSY):
        counts[drafters] = drafter_replicas(_drafter_pool(contexts[drafters]), pool, wanted)
    return counts, {**(context.policy_state or {}), **asdict(trend)}


def _trend(state: Mapping[str, Any], pool: TargetPool, now_s: float) -> Trend:
    if "level" not in state:
        return Trend(pool.demand_seats, 0.0, now_s)
    before = Trend(state["level"], state["per_s"], state["at_s"])
    return before.followed(pool.demand_seats, now_s)


def _as_it_is(context: Context) -> int:
    return _bounds(context).clamp(context.target_num_replicas)


def _bounds(context: Context) -> Bounds:
    most = context.capacity_adjusted_max_replicas
    return Bounds(min(context.capacity_adjusted_min_replicas, most), most)


def _target_pool(context: Context) -> TargetPool:
    queued = context.total_queued_requests or 0.0  # at handles: for want of any replica
    return TargetPool(
        current=context.current_num_replicas,
        bounds=_bounds(context),
        demand_seats=math.fsum(_numbers(context, DEMAND)) + queued,
        # Of a pool that grows the new ones know nothing yet: those that saw speak for them.
        seats_per_replica=_mean(_numbers(context, SEATS) or _numbers(context, EXPECTED_SEATS)),
    )


def _drafter_pool(context: Context) -> DrafterPool:
    return DrafterPool(
        current=context.current_num_replicas,
        bounds=_bounds(context),
        busy=_mean(_numbers(context, BUSY)),
        wait_steps=_mean(_numbers(context, WAIT)),
    )


def _numbers(context: Context, name: str) -> list[float]:
    """What replicas reported under a name; not what is no number."""
    reported = (context.aggregated_metrics or {}).get(name, {})
    return [value for value in map(float, reported.values()) if math.isfinite(value)]


def _mean(numbers: list[float]) -> float:
    return math.fsum(numbers) / len(numbers) if numbers else 0.0
