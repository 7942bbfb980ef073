"""A simulated fleet: discrete events over replicas, drafters and the controller's exchanges."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import count
from typing import Any

import numpy as np

from autoscale.assignment import assign_drafters
from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.draft_load import DraftLoads
from autoscale.fleet_load import ReplicaLoad
from autoscale.plan import NO_PLAN, ReplicaPlan, make_plans
from autoscale.policies import Policy
from autoscale.routing import Candidate, rank, relative_speeds
from autoscale.service_class import ServiceClass
from autoscale.simulation.costs import SimulatedCosts
from autoscale.simulation.draft_queue import DraftQueue, Reply
from autoscale.simulation.learning import SimulatedLearning
from autoscale.simulation.replica import Draft, EngineLimits, ReplicaTotals, SimulatedReplica
from autoscale.simulation.served import Served
from autoscale.simulation.texts import Texts
from autoscale.simulation.traces import Arrival
from autoscale.step_cost import StepCostTable

EXCHANGE_S = 0.5
_LEARN_EVERY, _REFIT_EVERY = 10, 20  # exchanges
ADVICE = tuple(one.name for one in fields(ReplicaPlan))
PLAN_FIELDS = frozenset({*ADVICE, "calibrations", "step_cost", "drafter"})
MakePlans = Callable[[Sequence[ReplicaLoad], Sequence[ServiceClass]], list[ReplicaPlan]]


@dataclass(frozen=True, slots=True)
class Faults:
    """What happens to the fleet besides load, at shares of the duration.

    Replica 0 is `slow_node` times slower than the profile says. The last replica is lost at
    `loss_at`, the first drafter of a pool at `drafter_loss_at`. Of the replicas, `late_replicas`
    are there only from `late_at` on: their engines have just started, and measured their steps
    alone.
    """

    slow_node: float = 1.0
    loss_at: float | None = None
    late_replicas: int = 0
    late_at: float = 0.0
    drafter_loss_at: float | None = None


@dataclass(frozen=True, slots=True)
class FleetShape:
    """`num_drafters` of 0: a drafter beside every target, else a pool whose replies have to come
    within `deadline_s`. `jitter` is the relative standard
    deviation of a step. What becomes of drafts corrects confidences where `confidences_err`."""

    num_replicas: int = 8
    num_drafters: int = 0
    limits: EngineLimits = field(default_factory=EngineLimits)
    faults: Faults = field(default_factory=Faults)
    jitter: float = 0.03
    deadline_s: float = 0.05
    confidences_err: bool = False


@dataclass(frozen=True, slots=True)
class Arm:
    """A policy to compare, and the fields of the plan, of `PLAN_FIELDS`, that it goes by.

    `make_policy` is told step costs and how drafting is, `make_plans` the loads of all replicas
    and what is promised.
    """

    name: str
    make_policy: Callable[[StepCostTable, DraftExperience], Policy]
    plan_fields: frozenset[str] = frozenset()
    make_plans: MakePlans = make_plans

    def advice(self, plan: ReplicaPlan) -> ReplicaPlan:
        """What it follows of a plan."""
        left_out = {name: getattr(NO_PLAN, name) for name in ADVICE if name not in self.plan_fields}
        return replace(plan, **left_out) if left_out else plan


@dataclass(slots=True)
class Outcome:
    """What a run did until `duration_s`."""

    served: list[Served]
    totals: list[ReplicaTotals]
    duration_s: float
    committed_tokens: int = field(init=False)

    def __post_init__(self) -> None:
        self.committed_tokens = sum(one.committed_tokens for one in self.totals)


class SimulatedFleet:
    """Runs a trace. The same `seed` gives the same steps' jitter to every arm."""

    def __init__(
        self,
        arm: Arm,
        shape: FleetShape,
        costs: SimulatedCosts,
        texts: Texts,
        classes: Sequence[ServiceClass],
        seed: int,
    ) -> None:
        self._arm = arm
        self._shape = shape
        self._costs = costs
        self._classes = classes
        self._router = random.Random(seed)
        self._speeds = [1.0] * shape.num_replicas
        self._drafters_free_s = dict.fromkeys(range(shape.num_drafters), 0.0)  # of those alive
        self._drafter_of: dict[str, str] = {}
        self._draft_loads = DraftLoads()
        self._assign_drafters()
        self._learning = SimulatedLearning()
        self._num_exchanges = 0
        self._events: list[tuple[float, int, Callable[[float, Any], None], Any]] = []
        self._order = count()
        self.replicas = [
            SimulatedReplica(
                arm.make_policy(costs.told, NO_EXPERIENCE),
                texts,
                classes,
                shape.limits,
                self._step_s(i, np.random.default_rng([seed, 2, i])),
                self._draft(i),
                np.random.default_rng([seed, 3, i]),
                confidences_err=shape.confidences_err,
                keeps_outcomes=self._learns_calibrations,
            )
            for i in range(shape.num_replicas)
        ]
        self._served: list[Served] = []
        self._to_come: Iterator[tuple[float, int, Served]] = iter(())  # those not among the events

    def run(self, trace: Sequence[Arrival], duration_s: float) -> Outcome:
        """Serve `trace` until `duration_s`; what has not ended by then stays unfinished."""
        self.start(trace, duration_s)
        return self.advance(duration_s)

    def start(self, trace: Sequence[Arrival], duration_s: float) -> None:
        """Take in `trace` and the faults of a run of `duration_s`."""
        self._served = [Served(arrival) for arrival in trace]
        numbered = enumerate(self._served, -len(self._served))  # before all that happens with them
        self._to_come = iter(sorted((one.arrival.arrival_s, i, one) for i, one in numbered))
        self._await_arrival()
        faults = self._shape.faults
        if faults.late_replicas:
            for replica in self.replicas[-faults.late_replicas :]:
                replica.is_alive = False
                replica.policy = self._arm.make_policy(self._costs.at_start, NO_EXPERIENCE)
                self._at(faults.late_at * duration_s, self._come_up, replica)
        if faults.loss_at is not None:
            self._at(faults.loss_at * duration_s, self._lose, self.replicas[-1])
        if faults.drafter_loss_at is not None:
            self._at(faults.drafter_loss_at * duration_s, self._lose_drafter, 0)
        self._at(EXCHANGE_S, self._exchange, None)

    def advance(self, until_s: float) -> Outcome:
        """What has happened by `until_s`."""
        while self._events and self._events[0][0] <= until_s:
            now_s, _, happen, subject = heapq.heappop(self._events)
            happen(now_s, subject)
        return Outcome(self._served, [replica.totals for replica in self.replicas], until_s)

    def _at(self, at_s: float, happen: Callable[[float, Any], None], subject: Any) -> None:
        heapq.heappush(self._events, (at_s, next(self._order), happen, subject))

    def _await_arrival(self) -> None:
        """Only the next one waits among the events: the fewer there are, the sooner sorted."""
        for at_s, number, served in self._to_come:
            heapq.heappush(self._events, (at_s, number, self._arrive, served))
            return

    def _arrive(self, now_s: float, served: Served) -> None:
        self._await_arrival()
        self._submit(now_s, served)

    def _submit(self, now_s: float, served: Served) -> None:
        """Where a router of the served fleet sends it, by what has been seen of speeds."""
        alive = [i for i, replica in enumerate(self.replicas) if replica.is_alive]
        candidates = [Candidate(self.replicas[i].num_requests, self._speeds[i]) for i in alive]
        best, *_ = rank(candidates, 1.0, self._router)
        replica = self.replicas[alive[best]]
        replica.submit(served)
        if not replica.is_busy:
            replica.is_busy = True
            self._begin(now_s, replica)

    def _begin(self, now_s: float, replica: SimulatedReplica) -> None:
        ends_s = replica.begin_step(now_s)
        if ends_s is not None:
            self._at(ends_s, self._end, replica)

    def _end(self, now_s: float, replica: SimulatedReplica) -> None:
        if not replica.is_alive:
            return
        next_s = replica.end_step(now_s)
        if next_s > now_s:
            self._at(next_s, self._begin_if_alive, replica)
        else:
            self._begin(now_s, replica)

    def _begin_if_alive(self, now_s: float, replica: SimulatedReplica) -> None:
        if replica.is_alive:
            self._begin(now_s, replica)

    def _exchange(self, now_s: float, _: None) -> None:
        """Every replica's load up, every replica's plan down."""
        alive = [i for i, replica in enumerate(self.replicas) if replica.is_alive]
        loads = [self.replicas[i].report(EXCHANGE_S, self._costs.step_s) for i in alive]
        speeds = relative_speeds([load.relative_step_cost for load in loads])
        for i, load in zip(alive, loads, strict=True):
            self._draft_loads.follow(_name(i), load.drafts_per_s, now_s)
        plans = self._arm.make_plans(loads, self._classes)
        for i, plan, speed in zip(alive, plans, speeds, strict=True):
            self._speeds[i] = speed
            self.replicas[i].take_plan(self._arm.advice(plan))
        self._learn(alive)
        if "drafter" in self._arm.plan_fields:
            self._assign_drafters()
        self._at(now_s + EXCHANGE_S, self._exchange, None)

    def _learn(self, alive: Sequence[int]) -> None:
        """Now and then replicas report what became of drafts and what steps take."""
        self._num_exchanges += 1
        if self._num_exchanges % _LEARN_EVERY:
            return
        if self._shape.faults.late_replicas:  # for whom else would it be learned
            for i in alive:
                self._learning.absorb_step_cost(_name(i), self.replicas[i])
        if not self._learns_calibrations:
            return
        for i in alive:
            self._learning.absorb_outcomes(self.replicas[i])
        if self._num_exchanges % _REFIT_EVERY == 0:
            self._learning.refit()
            for i in alive:
                self.replicas[i].drafts.replica.adopt(self._learning.calibrations)

    @property
    def _learns_calibrations(self) -> bool:
        return self._shape.confidences_err and "calibrations" in self._arm.plan_fields

    def _assign_drafters(self) -> None:
        targets = [_name(i) for i in range(self._shape.num_replicas)]
        drafters = [_name(i) for i in self._drafters_free_s]
        self._drafter_of = assign_drafters(
            targets, drafters, self._drafter_of, self._draft_loads.known()
        )

    def _lose_drafter(self, _: float, drafter: int) -> None:
        del self._drafters_free_s[drafter]

    def _lose(self, now_s: float, replica: SimulatedReplica) -> None:
        for served in replica.lose_all():
            self._submit(now_s, served)

    def _come_up(self, _: float, replica: SimulatedReplica) -> None:
        replica.is_alive = True
        if self._learns_calibrations:
            replica.drafts.replica.adopt(self._learning.calibrations)
        known = self._learning.step_cost if "step_cost" in self._arm.plan_fields else None
        if known is not None:
            replica.policy = self._arm.make_policy(known.table, known.drafts)

    def _step_s(self, index: int, rng: np.random.Generator) -> Callable[[int, int, int], float]:
        factor = self._shape.faults.slow_node if index == 0 else 1.0
        jitter = _jitter(rng, self._shape.jitter)

        def step_s(n_tokens: int, num_requests: int, context_tokens: int) -> float:
            expected_s = self._costs.step_s(n_tokens, num_requests, context_tokens)
            return factor * next(jitter) * expected_s

        return step_s

    def _draft(self, index: int) -> Draft:
        """Beside the target, or in the queue of the drafter that the target is assigned."""
        target = _name(index)

        def beside(now_s: float, num_requests: int) -> Reply:
            return Reply(now_s + self._costs.draft_s(num_requests))

        if not self._drafters_free_s:
            return beside
        return DraftQueue(
            self._drafters_free_s,
            lambda: int(self._drafter_of[target]),
            self._costs.draft_s,
            self._shape.deadline_s,
        ).ask


def _name(index: int) -> str:
    return f"{index:04}"


def _jitter(rng: np.random.Generator, spread: float) -> Iterator[float]:
    """Factors around 1, drawn by the thousand."""
    while True:
        yield from rng.lognormal(0.0, spread, 1024).tolist()
