"""A pool of modelled targets under the policy: as many as the demand needs, and no others."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean
from typing import Any

import pytest

from autoscale.admission import Admission, ReplicaLimits, Ticket
from autoscale.demand import Demand
from autoscale.fleet_step_cost import StepCostReport
from autoscale.request_cost import RequestCost
from autoscale.service_class import ServiceClass
from autoscale.step_cost import StepCostTable
from deployments.autoscaling import fleet_policy, target_stats

TICK_S = 0.25
SEATS, PROMPT, OUTPUT = 16, 20, 100
BASE_S, REQUEST_S = 0.010, 0.001  # of a step, and of each request in it
START_S = 20.0  # of a replica
UP_AFTER_S, DOWN_AFTER_S = 5.0, 60.0
LOOK_BACK = 5  # reports of a replica, over which Serve takes the mean
PROFILE = StepCostReport(
    StepCostTable((1, SEATS), (BASE_S + REQUEST_S, BASE_S + SEATS * REQUEST_S)), (0.0, 0.0)
)


@dataclass
class Target:
    """A replica: its admission is ours, its engine gives every seated request its tokens."""

    ready_s: float
    step_costs: StepCostReport | None
    admission: Admission = field(default_factory=lambda: Admission(ReplicaLimits(SEATS)))
    demand: Demand = field(default_factory=Demand)
    tokens: dict[Ticket, float] = field(default_factory=dict)  # of those that are seated
    reports: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=LOOK_BACK))

    @property
    def here(self) -> int:
        return self.admission.running + self.admission.waiting

    def offer(self, ticket: Ticket, now_s: float) -> None:
        self.demand.arrived(1, now_s)
        refused = self.admission.offer(ticket, now_s)
        if refused is None and ticket.seated_s is not None:
            self.tokens[ticket] = 0.0

    def run(self, now_s: float) -> None:
        each = TICK_S / (BASE_S + REQUEST_S * max(len(self.tokens), 1))
        for ticket, before in list(self.tokens.items()):
            after = self.tokens[ticket] = before + each
            self.admission.record_tokens(ticket, int(after) - int(before), now_s)
            if after >= OUTPUT:
                assert ticket.seated_s is not None
                del self.tokens[ticket]
                self.admission.leave(ticket, now_s)
                self.demand.left(now_s - ticket.seated_s)
        self.admission.observe(now_s)
        self.tokens |= dict.fromkeys(self.admission.advance(now_s).seated, 0.0)

    def stats(self, promised: ServiceClass, now_s: float) -> dict[str, float]:
        demand = max(float(self.here), self.demand.seats(now_s))
        capacity = self.admission.capacity(now_s, promised, self.step_costs)
        self.reports.append(target_stats(demand, capacity))
        names = {name for report in self.reports for name in report}
        said = {name: [r[name] for r in self.reports if name in r] for name in names}
        return {name: fmean(values) for name, values in said.items()}


@dataclass
class Pool:
    """What the policy and Ray Serve's delays make of it, a decision a second."""

    promised: ServiceClass
    targets: list[Target]
    step_costs: StepCostReport | None = None
    now_s: float = 0.0
    state: dict[str, Any] = field(default_factory=dict)
    differs_since: tuple[int, float] = (0, 0.0)  # which way, and since when
    leaving: list[Target] = field(default_factory=list)
    current_time: float = 0.0
    deployment_name: str = "Target:m"
    capacity_adjusted_min_replicas: int = 0
    capacity_adjusted_max_replicas: int = 12
    total_queued_requests: float = 0.0
    aggregated_metrics: dict[str, dict[int, float]] = field(default_factory=dict)

    @property
    def policy_state(self) -> dict[str, Any]:
        return self.state

    @property
    def current_num_replicas(self) -> int:
        return len(self.targets)

    @property
    def target_num_replicas(self) -> int:
        return len(self.targets)

    def run(
        self, seconds: int, *, per_s: float = 0.0, streams: int = 0, seed: int = 0
    ) -> Iterator[int]:
        """Requests come so often, or `streams` of them are always there; yields the number of
        replicas after every second."""
        rng = random.Random(seed)
        next_s = self.now_s + rng.expovariate(per_s) if per_s else float("inf")
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            while next_s <= self.now_s:
                self._route(rng)
                next_s += rng.expovariate(per_s)
            for _ in range(streams - sum(one.here for one in (*self.targets, *self.leaving))):
                self._route(rng)
            for target in (*self.targets, *self.leaving):
                target.run(self.now_s)
            if self.now_s % 1.0 == 0:
                self._decide()
                yield len(self.targets)

    def _route(self, rng: random.Random) -> None:
        """To the better one of two that are drawn."""
        ticket = Ticket(self.promised, "t", RequestCost(PROMPT, OUTPUT), self.now_s)
        ready = [one for one in self.targets if one.ready_s <= self.now_s]
        if ready:
            drawn = rng.sample(ready, min(2, len(ready)))
            min(drawn, key=lambda one: one.here).offer(ticket, self.now_s)

    def _decide(self) -> None:
        self.current_time = self.now_s
        self.aggregated_metrics = {}
        for i, target in enumerate(self.targets):
            if target.ready_s <= self.now_s:
                for name, value in target.stats(self.promised, self.now_s).items():
                    self.aggregated_metrics.setdefault(name, {})[i] = value
        counts, states = fleet_policy({"t": self})
        self.state = states["t"]
        way = (counts["t"] > len(self.targets)) - (counts["t"] < len(self.targets))
        if way != self.differs_since[0]:
            self.differs_since = (way, self.now_s)
        after_s = self.now_s - self.differs_since[1]
        if (way > 0 and after_s >= UP_AFTER_S) or (way < 0 and after_s >= DOWN_AFTER_S):
            self._resize(counts["t"])

    def _resize(self, wanted: int) -> None:
        self.differs_since = (0, self.now_s)
        while len(self.targets) < wanted:
            self.targets.append(Target(self.now_s + START_S, self.step_costs))
        self.leaving += self.targets[wanted:]
        del self.targets[wanted:]


def pool(replicas: int, tpot_s: float, step_costs: StepCostReport | None = None) -> Pool:
    promised = ServiceClass("promised", ttft_s=30.0, tpot_s=tpot_s)
    return Pool(promised, [Target(0.0, step_costs) for _ in range(replicas)], step_costs)


LOOSE_S, TIGHT_S = 10 * (BASE_S + REQUEST_S), 0.022  # all 16 seats keep it, and 9 of them
LITTLE, SOME, MUCH = 2.6, 12.0, 30.0  # per second: 3 seats, 18 and more than 45


def changes(sizes: list[int]) -> list[int]:
    return [after for before, after in pairwise(sizes) if before != after]


@pytest.mark.parametrize("load", [{"streams": 3}, {"per_s": LITTLE}], ids=str)
@pytest.mark.parametrize("step_costs", [PROFILE, None], ids=["profile", "no profile"])
def test_ten_replicas_at_a_tenth_of_the_promise_become_two(step_costs, load):
    sizes = list(pool(10, LOOSE_S, step_costs).run(600, **load))
    assert changes([10, *sizes]) == [2]  # one would do, and one may be lost
    assert sizes.index(2) == DOWN_AFTER_S


@pytest.mark.parametrize("tpot_s", [LOOSE_S, TIGHT_S])
@pytest.mark.parametrize("step_costs", [PROFILE, None], ids=["profile", "no profile"])
def test_a_pool_grows_in_a_burst_and_is_what_it_was_some_minutes_after(tpot_s, step_costs):
    some = pool(2, tpot_s, step_costs)
    assert set(some.run(120, per_s=LITTLE)) == {2}
    burst = list(some.run(90, per_s=MUCH))
    assert burst == sorted(burst)
    assert burst[15] >= 8  # what is needed in the long run, before one of them was ready
    after = list(some.run(400, per_s=LITTLE))
    assert set(after[180:]) <= {2, 3}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("tpot_s", "enough"), [(LOOSE_S, {4}), (TIGHT_S, {4, 5})])
def test_at_a_steady_load_replicas_do_not_come_and_go(tpot_s, enough, seed):
    assert set(pool(4, tpot_s, PROFILE).run(600, per_s=SOME, seed=seed)) == enough


def test_what_fades_is_none_at_last():
    some = pool(2, LOOSE_S)
    list(some.run(60, per_s=LITTLE))
    sizes = list(some.run(240))
    assert (sizes[0], set(sizes[180:])) == (2, {0})
