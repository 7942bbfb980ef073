"""What the routers in this process know of their replicas, and how replicas tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.pool_view import LastRefusal, PoolView, ReplicaState

POOLS: dict[str, PoolView] = {}
"""By deployment."""


def register(deployment: str, pool: PoolView) -> None:
    """A router tells its process of its pool.

    By a function, as Serve copies a router's module with every plain object that it names: its
    `POOLS` would be a dictionary of its own.
    """
    POOLS[deployment] = pool


def all_full(class_name: str, now_s: float) -> LastRefusal | None:
    """The soonest to come back to, where no target of any model has room for a class; None where
    one may have."""
    times = [pool.last_refusal(class_name, now_s) for pool in list(POOLS.values())]
    known = [refusal for refusal in times if refusal is not None]
    return min(known) if known and len(known) == len(times) else None


def routing_stats(state: ReplicaState) -> dict[str, float]:
    """A replica's state as Serve carries it to the routers."""
    return {
        "number": state.number,
        "outstanding_work": state.outstanding_work,
        "token_s": state.token_s or 0.0,
    }


def replica_state(stats: Mapping[str, Any]) -> ReplicaState | None:
    """What `routing_stats` made; None where there is nothing yet."""
    if "number" not in stats:
        return None
    return ReplicaState(stats["number"], stats["outstanding_work"], stats["token_s"] or None)
