"""What the routers in this process know of their replicas, and how replicas tell them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.pool_view import PoolView, ReplicaState

POOLS: dict[str, PoolView] = {}
"""By deployment."""

_LATE = "late_by_s:"  # prefix of a class's name in routing stats, which are flat


def routing_stats(state: ReplicaState) -> dict[str, float]:
    """A replica's state as Serve carries it to the routers."""
    late = {_LATE + name: seconds for name, seconds in state.late_by_s.items()}
    return {
        "number": state.number,
        "outstanding_work": state.outstanding_work,
        "token_s": state.token_s or 0.0,
        **late,
    }


def replica_state(stats: Mapping[str, Any]) -> ReplicaState | None:
    """What `routing_stats` made; None where there is nothing yet."""
    if "number" not in stats:
        return None
    return ReplicaState(
        number=stats["number"],
        outstanding_work=stats["outstanding_work"],
        token_s=stats["token_s"] or None,
        late_by_s={k.removeprefix(_LATE): v for k, v in stats.items() if k.startswith(_LATE)},
    )
