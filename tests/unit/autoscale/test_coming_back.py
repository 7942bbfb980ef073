"""Clients that do as `Retry-After` says, after a burst on a pool whose queue is kept short."""

from __future__ import annotations

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused
from autoscale.service_class import ServiceClass

PROMISED = ServiceClass("promised", ttft_s=2.0, tpot_s=math.inf)
LINE = Flow("promised", "t")
REPLICAS, WORK_S = 2, 0.2
PER_S = REPLICAS / WORK_S
LONGEST_WAIT_S = 1.0


def burst(rng: random.Random) -> list[float]:
    """Five times the capacity for ten seconds, then half of it for three minutes."""
    times, now_s = [], 0.0
    while now_s < 190.0:
        now_s += rng.expovariate((5.0 if now_s < 10.0 else 0.5) * PER_S)
        times.append(now_s)
    return times


@dataclass
class Run:
    """When each request was tried, and when the pool was idle while somebody was to come back."""

    tries_s: dict[int, list[float]] = field(default_factory=dict)
    served_s: dict[int, float] = field(default_factory=dict)
    idle_s: float = 0.0

    @property
    def num_tries(self) -> int:
        return sum(map(len, self.tries_s.values()))

    @property
    def all_served_s(self) -> float:
        """When the last of those who had to come back was."""
        return max(at_s for i, at_s in self.served_s.items() if len(self.tries_s[i]) > 1)

    def most_in_a_second(self, since_s: float) -> int:
        """Of those who came back after `since_s`."""
        back = (t for tries in self.tries_s.values() for t in tries[1:] if t >= since_s)
        return max(Counter(map(int, back)).values())


def serve(tell: Callable[[PoolView, float], float]) -> Run:
    """The pool is one line that is served at its rate, and refuses who would wait longer than
    `LONGEST_WAIT_S`."""
    run, view = Run(), PoolView(random.Random(1))
    view.keep(str(i) for i in range(REPLICAS))
    events = [(at_s, i) for i, at_s in enumerate(burst(random.Random(0)))]
    heapq.heapify(events)
    away, free_s = 0, 0.0  # who was told to come back; when all that waits is served
    while events:
        now_s, i = heapq.heappop(events)
        tries = run.tries_s.setdefault(i, [])
        if away and free_s < now_s:
            run.idle_s += now_s - free_s
        away -= bool(tries)
        tries.append(now_s)
        free_s = max(free_s, now_s)
        if free_s - now_s > LONGEST_WAIT_S:
            away += 1
            heapq.heappush(events, (now_s + math.ceil(tell(view, now_s)), i))
        else:
            free_s += 1 / PER_S
            run.served_s[i] = free_s
    return run


def as_told(view: PoolView, now_s: float) -> float:
    refused = Refused(0.0, "too_late", WORK_S)
    return view.turn_away(LINE, PROMISED, refused, now_s).retry_after_s


def the_same_for_all(view: PoolView, now_s: float) -> float:
    return 1.0


def test_those_who_come_back_do_so_one_after_the_other_and_about_when_there_is_room():
    told, alike = serve(as_told), serve(the_same_for_all)
    assert told.most_in_a_second(11.0) < 2.5 * PER_S < 30 * PER_S < alike.most_in_a_second(11.0)
    assert told.num_tries < 1.8 * len(told.served_s) < 10 * len(told.served_s) < alike.num_tries
    assert told.idle_s == alike.idle_s == 0.0  # nobody stays away from a pool that has room
    assert told.all_served_s == alike.all_served_s
