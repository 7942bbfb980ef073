"""A target replica's load, from what its frontend counted and what its worker says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.fleet_load import ReplicaLoad
from cluster.traffic_meter import Traffic


def replica_load(
    traffic: Traffic, seats: int, stats: Mapping[str, Any], num_committed_before: int = 0
) -> ReplicaLoad:
    """`stats` are rank 0's `dspark_stats`; empty where our adapter is not in the worker, whose
    steps and drafts are then unknown. `num_committed_before` tokens were in those of the last
    report.

    `relative_step_cost` is 1: the controller knows what others take on the same hardware.
    """
    running = stats.get("requests", min(traffic.in_flight, seats))
    waiting = max(0, traffic.in_flight - running)
    tokens_per_s = traffic.tokens_per_s
    if "committed_tokens" in stats:
        tokens_per_s = (stats["committed_tokens"] - num_committed_before) / traffic.elapsed_s
    return ReplicaLoad(
        running=running,
        waiting=waiting,
        seats=seats,
        prefill_tokens=round(stats.get("unread_tokens", 0) + waiting * traffic.mean_prompt_tokens),
        arrivals_per_s=traffic.arrivals_per_s,
        prompt_tokens_per_s=traffic.prompt_tokens_per_s,
        tokens_per_s=max(0.0, tokens_per_s),
        relative_step_cost=1.0,
        step_s=stats.get("mean_step_s", 0.0),
        num_drafts=stats.get("verified_drafts", 0),
        accepted_tokens=stats.get("accepted_tokens", 0),
        draft_wait_s=stats.get("mean_draft_wait_s", 0.0),
        outcomes=traffic.outcomes,
    )
