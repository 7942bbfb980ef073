"""A target replica's load, from what its gate counted and what its worker says."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from autoscale.fleet_load import ClassOutcomes, ReplicaLoad

NOTHING: Mapping[str, Any] = MappingProxyType({})


class Traffic(NamedTuple):
    """Since the last one taken, `elapsed_s` ago: arrivals and output tokens per second; and as
    it is now: sequences that are seated, requests that wait for a seat, and prompt tokens of
    both that are still to be read."""

    elapsed_s: float
    arrivals_per_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    seated: int
    waiting: int
    unread_tokens: float
    outcomes: Mapping[str, ClassOutcomes]


def replica_load(
    traffic: Traffic, seats: int, stats: Mapping[str, Any], before: Mapping[str, Any] = NOTHING
) -> ReplicaLoad:
    """`stats` are rank 0's `dspark_stats`; empty where our adapter is not in the worker, whose
    steps and drafts are then unknown. `before` are those of the last report.

    `relative_step_cost` is 1: the controller knows what others take on the same hardware.
    """
    running = stats.get("requests", traffic.seated)
    tokens_per_s = traffic.tokens_per_s
    if "committed_tokens" in stats:
        more = stats["committed_tokens"] - before.get("committed_tokens", 0)
        tokens_per_s = more / traffic.elapsed_s
    steps = _wanting_steps(stats) - _wanting_steps(before)
    return ReplicaLoad(
        running=running,
        waiting=traffic.waiting + max(0, traffic.seated - running),
        seats=seats,
        prefill_tokens=round(traffic.unread_tokens),
        arrivals_per_s=traffic.arrivals_per_s,
        prompt_tokens_per_s=traffic.prompt_tokens_per_s,
        tokens_per_s=max(0.0, tokens_per_s),
        relative_step_cost=1.0,
        step_s=stats.get("mean_step_s", 0.0),
        num_drafts=stats.get("verified_drafts", 0),
        accepted_tokens=stats.get("accepted_tokens", 0),
        draft_wait_s=stats.get("mean_draft_wait_s", 0.0),
        outcomes=traffic.outcomes,
        drafts_per_s=max(0.0, steps * running / traffic.elapsed_s),
    )


def _wanting_steps(stats: Mapping[str, Any]) -> int:
    """Those that asked for drafts, or would have but for a cool-off."""
    source = stats.get("source", NOTHING)
    return int(source.get("requests", 0) + source.get("skipped", 0))
