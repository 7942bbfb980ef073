"""The load of a fleet, as its replicas report it, added up."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import NamedTuple

OUTCOME_FADE = 0.97  # of ended requests, from one report to the next
_MOST = 1e15  # of anything that a replica can report


class ClassOutcomes(NamedTuple):
    """Requests of a service class that ended lately, and those whose promise was kept."""

    num_ended: float = 0.0
    num_met: float = 0.0


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """What a replica says of its last interval.

    `running` requests decode, `prefill_tokens` of prompts, running or queued, are still to be
    read, and `waiting` requests have no seat among `seats`. `step_s` is a usual step,
    `relative_step_cost` what steps take over what the profile says: 2.0 on a node of half the
    speed.
    `accepted_tokens` of `num_drafts` are since it started; `draft_wait_s` is what a step
    waits for drafts. `drafts_per_s` is how many it wanted, whether they came or not.
    """

    running: int
    waiting: int
    seats: int
    prefill_tokens: int
    arrivals_per_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    relative_step_cost: float
    step_s: float
    num_drafts: int
    accepted_tokens: int
    draft_wait_s: float
    outcomes: Mapping[str, ClassOutcomes] = field(default_factory=dict)
    drafts_per_s: float = 0.0

    def impossible(self) -> str | None:
        """The first field that no replica can have; None where all can be."""
        for one in fields(self):
            value = getattr(self, one.name)
            some = [value] if one.name != "outcomes" else [n for c in value.values() for n in c]
            if not all(_is_amount(number) for number in some):
                return one.name
        return None


def _is_amount(number: object) -> bool:
    return isinstance(number, int | float) and math.isfinite(number) and 0 <= number <= _MOST


@dataclass(frozen=True, slots=True)
class FleetLoad:
    """The sums over replicas; rates are of the whole fleet.

    `draft_wait_s` is what a step of a replica that drafts waits for drafts, on average. What one
    report cannot tell is None until somebody has followed the fleet: arrivals per second
    expected in a minute (`autoscale.trend`), draft tokens accepted per draft of late, and the
    share of their time that drafter replicas draft.
    """

    num_replicas: int
    running: int
    waiting: int
    seats: int
    prefill_tokens: int
    arrivals_per_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    draft_wait_s: float
    outcomes: Mapping[str, ClassOutcomes]
    expected_arrivals_per_s: float | None = None
    accepted_per_draft: float | None = None
    drafter_busy: float | None = None


def fleet_load(loads: Collection[ReplicaLoad]) -> FleetLoad:
    """All replicas together; of none, nothing."""
    counts: dict[str, list[float]] = {}
    for load in loads:
        for name, (num_ended, num_met) in load.outcomes.items():
            so_far = counts.setdefault(name, [0.0, 0.0])
            so_far[0] += num_ended
            so_far[1] += num_met
    return FleetLoad(
        num_replicas=len(loads),
        running=sum(load.running for load in loads),
        waiting=sum(load.waiting for load in loads),
        seats=sum(load.seats for load in loads),
        prefill_tokens=sum(load.prefill_tokens for load in loads),
        arrivals_per_s=sum(load.arrivals_per_s for load in loads),
        prompt_tokens_per_s=sum(load.prompt_tokens_per_s for load in loads),
        tokens_per_s=sum(load.tokens_per_s for load in loads),
        draft_wait_s=_mean([load.draft_wait_s for load in loads if load.num_drafts]),
        outcomes={name: ClassOutcomes(*both) for name, both in counts.items()},
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0
