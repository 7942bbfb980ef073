"""The pace of exchanges: how often replicas report to one controller, and what silence means.

Up to 300 replicas (targets, drafters and ingresses together) report twice a second. Of more,
each reports the more seldom the more there are, so that one controller is asked `MOST_PER_S`
times a second at most. Plans live, and replicas are remembered, for six intervals.
"""

from __future__ import annotations

import random

SHORTEST_S = 0.5
LONGEST_S = 20.0  # with as many replicas as a controller takes it is 15 s
MOST_PER_S = 600.0  # exchanges of all replicas together
_LIFE = 6  # intervals
_JITTER = 0.2  # of the interval, so that replicas do not report in step


def interval_s(num_replicas: int) -> float:
    """From one report of a replica to its next, in a fleet of so many."""
    return bounded_s(num_replicas / MOST_PER_S)


def bounded_s(interval_s: float) -> float:
    """The interval nearest to one that somebody claims; NaN is the shortest."""
    return min(max(SHORTEST_S, interval_s), LONGEST_S)


def lifetime_s(interval_s: float) -> float:
    """How long a plan lives, and a replica is remembered, that is told such an interval."""
    return _LIFE * bounded_s(interval_s)


def next_in_s(interval_s: float) -> float:
    """When to report again."""
    return interval_s * random.uniform(1 - _JITTER, 1 + _JITTER)
