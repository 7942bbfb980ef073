"""Stretches of time with arrivals at random, of several service classes: the bad days' loads."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of time with arrivals at random, so many per second on average."""

    duration_s: float
    rate_per_s: float


@dataclass(frozen=True, slots=True)
class Request:
    """One arrival, seconds from the start. `service_class` is asked for in a header."""

    at_s: float
    prompt: str
    max_tokens: int
    service_class: str | None = None


def poisson_times(phases: Sequence[Phase], seed: int) -> list[float]:
    """Arrival times over all phases: the same for the same seed."""
    rng = random.Random(seed)
    times = []
    begins_s = 0.0
    for phase in phases:
        ends_s = begins_s + phase.duration_s
        at_s = begins_s
        while phase.rate_per_s > 0:
            at_s += rng.expovariate(phase.rate_per_s)
            if at_s >= ends_s:
                break
            times.append(at_s)
        begins_s = ends_s
    return times
