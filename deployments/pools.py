"""What the routers in this process know of their replicas, and how replicas tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused, ReplicaState
from autoscale.request_cost import CostModel
from autoscale.service_class import ServiceClass

QUEUED_AT_CALLER = 256  # requests of a deployment that wait where it is called
_LOOK_S = 0.1  # between two looks for a replica

POOLS: dict[str, PoolView] = {}
"""By deployment."""


def register(deployment: str, pool: PoolView) -> None:
    """A router tells its process of its pool.

    By a function, as Serve copies a router's module with every plain object that it names: its
    `POOLS` would be a dictionary of its own.
    """
    POOLS[deployment] = pool


def refuse_unread(
    promises: Mapping[str, ServiceClass], num_ingresses: int, asker: Flow, now_s: float
) -> Refused | None:
    """What to tell of a request where no target of any model has room for its line, whatever it
    is; None where one may have. Every pool counts its share: the model is not known. Other
    ingresses turn away as many."""
    pools = list(POOLS.values())
    refusals = [(pool, pool.refused_by_all(asker, now_s)) for pool in pools]
    known = [(pool, refused) for pool, refused in refusals if refused is not None]
    if not known or len(known) < len(pools):
        return None
    promised, share = promises[asker.class_name], 1 / len(pools)
    for pool in pools:
        pool.refused_unseen(now_s, share)
    turns = num_ingresses * share
    return min(pool.turn_away(asker, promised, refused, now_s, turns) for pool, refused in known)


async def someone_lives(pool: PoolView, patience_s: float) -> bool:
    """Whether a pool has a replica, now or before `patience_s` have gone by.

    One that no router has told of yet may well have. At most `QUEUED_AT_CALLER` wait for one.
    """
    if not _is_dead(pool):
        return True
    if pool.num_waiting >= QUEUED_AT_CALLER:
        return False
    pool.num_waiting += 1
    try:
        async with asyncio.timeout(patience_s):
            while _is_dead(pool):
                await asyncio.sleep(_LOOK_S)
            return True
    except TimeoutError:
        return False
    finally:
        pool.num_waiting -= 1


def _is_dead(pool: PoolView) -> bool:
    return pool.is_empty and any(pool is one for one in POOLS.values())


def routing_stats(state: ReplicaState, costs: CostModel) -> dict[str, Any]:
    """A replica's state, and by what it predicts costs, as Serve carries it to the routers."""
    return {
        "lengths": costs.learned(),
        "number": state.number,
        "outstanding_work": state.outstanding_work,
        "token_s": state.token_s or 0.0,
    }


def replica_state(stats: Mapping[str, Any]) -> ReplicaState | None:
    """What `routing_stats` made; None where there is nothing yet."""
    if "number" not in stats:
        return None
    return ReplicaState(stats["number"], stats["outstanding_work"], stats["token_s"] or None)
