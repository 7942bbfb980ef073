"""Arms side by side on the same traces and texts, regime by regime and seed by seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np

from autoscale.policy_settings import make_policy
from autoscale.service_class import ServiceClass
from autoscale.simulation.costs import SimulatedCosts
from autoscale.simulation.fleet import PLAN_FIELDS, Arm, FleetShape, SimulatedFleet
from autoscale.simulation.regimes import Regime
from autoscale.simulation.replica import EngineLimits
from autoscale.simulation.results import BATCH, LATENCY, Result, Took, quantile, summarise
from autoscale.simulation.texts import Texts, draw_texts
from autoscale.simulation.traces import Arrival, draw_trace
from profiles.step_cost import StepCostProfile

DEFAULT = "fleet"
CAUSAL = partial(make_policy, {"kind": "causal"})
_NO_PROMISES = (ServiceClass(LATENCY, 1e9, 1e9), ServiceClass(BATCH, 1e9, 1e9))
_GAMMA = 7
_SATURATED = 3.0  # times a first guess of the capacity
_PROMISED_AT = 0.6  # of the capacity: what nearly every request gets there is promised
_TEXT_SEED = 7
_USUAL_CONTEXT = 400  # tokens of a request

Job = tuple[Regime, int]
"""A regime and a seed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`steps` is a run's duration in plain steps with every seat taken."""

    num_replicas: int = 8
    seats: int = 64
    steps: int = 1000
    seeds: int = 5
    workers: int = 1


def arms_of() -> list[Arm]:
    """The fixed policies, the local rule without a plan, and with all of it."""
    fixed = [("off", {"kind": "off"})] + [
        (f"fixed {k}", {"kind": "fixed", "k": k}) for k in (1, 3, 5, 7)
    ]
    learning = [("local", {"kind": "causal"}), ("lookahead", {"kind": "lookahead"})]
    arms = [Arm(name, partial(make_policy, settings)) for name, settings in fixed + learning]
    return [*arms, Arm(DEFAULT, CAUSAL, PLAN_FIELDS)]


def ablations() -> list[Arm]:
    """The default without each field of the plan."""
    return [Arm(f"without {name}", CAUSAL, PLAN_FIELDS - {name}) for name in sorted(PLAN_FIELDS)]


class Experiment:
    """Everything a run needs but its regime, arm and seed."""

    def __init__(self, profile: StepCostProfile, settings: Settings) -> None:
        self.profile = profile
        self.settings = settings
        seats = settings.seats
        full_step_s = SimulatedCosts.of(profile).step_s(seats, seats, seats * _USUAL_CONTEXT)
        self.duration_s = settings.steps * full_step_s
        self._found: dict[tuple[object, ...], Any] = {}  # by pilot runs

    def run(
        self,
        regimes: Sequence[Regime],
        arms: Sequence[Arm],
        progress: Callable[[str], None],
    ) -> list[Result]:
        """The arms in all regimes, over `workers` processes."""
        for regime in regimes:  # before processes part
            self.capacity_per_s(regime)
            self.classes(regime)
        jobs = [(regime, seed) for regime in regimes for seed in range(self.settings.seeds)]
        results: list[Result] = []
        for some in self._map(partial(_run_job, self, arms), jobs):
            results += some
            if some[0].seed == self.settings.seeds - 1:
                progress(f"{some[0].regime}: done")
        return results

    def _map(
        self,
        work: Callable[[Job], list[Result]],
        jobs: Sequence[Job],
    ) -> Iterator[list[Result]]:
        if self.settings.workers == 1:
            yield from map(work, jobs)
            return
        context = get_context("fork")  # regimes hold functions, which are inherited, not sent
        global _INHERITED
        _INHERITED = (work, jobs)
        with ProcessPoolExecutor(self.settings.workers, mp_context=context) as pool:
            yield from pool.map(_run_inherited, range(len(jobs)))

    def capacity_per_s(self, regime: Regime) -> float:
        """Requests per second that the local rule serves when all seats are taken."""
        key = ("capacity", regime.shape, regime.padded_tokens)
        if key not in self._found:
            shape = self._shape(regime)
            seats = shape.limits.seats
            step_s = self.costs(regime).step_s(seats, seats, 0)
            rate = _SATURATED * shape.num_replicas * seats / step_s
            fleet = self._pilot(regime, rate / regime.shape.mean_output_tokens, _NO_PROMISES)
            before = fleet.advance(self.duration_s / 2).committed_tokens
            after = fleet.advance(self.duration_s).committed_tokens
            served_per_s = (after - before) / (self.duration_s / 2)
            self._found[key] = served_per_s / regime.shape.mean_output_tokens
        found: float = self._found[key]
        return found

    def classes(self, regime: Regime) -> tuple[ServiceClass, ServiceClass]:
        """A tight promise and a loose one: from what requests get at a comfortable load."""
        key = ("classes", regime.shape)
        if key not in self._found:
            usual = Regime("usual", _PROMISED_AT, shape=regime.shape)
            rate = _PROMISED_AT * self.capacity_per_s(usual)
            served = self._pilot(usual, rate, _NO_PROMISES).advance(self.duration_s).served
            ttft_s = quantile([one.ttft_s for one in served if one.ttft_s is not None], 0.9)
            tpot_s = quantile([one.tpot_s for one in served if one.tpot_s is not None], 0.9)
            self._found[key] = (
                ServiceClass(LATENCY, ttft_s=10 * ttft_s, tpot_s=1.2 * tpot_s),
                ServiceClass(BATCH, ttft_s=50 * ttft_s, tpot_s=4 * tpot_s),
            )
        found: tuple[ServiceClass, ServiceClass] = self._found[key]
        return found

    def _pilot(
        self, regime: Regime, rate_per_s: float, classes: Sequence[ServiceClass]
    ) -> SimulatedFleet:
        """The local rule on a healthy fleet, about to serve."""
        plain = Regime("pilot", 1.0, shape=regime.shape, padded_tokens=regime.padded_tokens)
        costs = self.costs(plain)
        trace = self.trace(plain, 0, rate_per_s, self.duration_s)
        arm = Arm("local", CAUSAL)
        fleet = SimulatedFleet(arm, self._shape(plain), costs, _texts(plain), classes, 0)
        fleet.start(trace, self.duration_s)
        return fleet

    def costs(self, regime: Regime) -> SimulatedCosts:
        return SimulatedCosts.of(self.profile, regime.padded_tokens, regime.drafter_slowdown)

    def trace(
        self, regime: Regime, seed: int, rate_per_s: float, duration_s: float
    ) -> list[Arrival]:
        if regime.trace:
            return list(regime.trace)
        return draw_trace(
            np.random.default_rng([seed, 0]),
            regime.shape,
            rate_per_s=rate_per_s,
            duration_s=duration_s,
            classes=(LATENCY, BATCH),
            rate=lambda at_s: regime.rate(at_s / duration_s),
            peak=regime.peak,
        )

    def _shape(self, regime: Regime) -> FleetShape:
        limits = EngineLimits(self.settings.seats)
        return FleetShape(
            self.settings.num_replicas,
            regime.num_drafters,
            limits,
            regime.faults,
            confidences_err=regime.overconfidence > 0,
        )

    def run_seed(self, regime: Regime, seed: int, arms: Sequence[Arm]) -> list[Result]:
        """The arms on one trace, on the same texts."""
        costs, classes = self.costs(regime), self.classes(regime)
        rate_per_s = regime.load * self.capacity_per_s(regime)
        duration_s = self.duration_s
        if regime.trace:
            duration_s += regime.trace[-1].arrival_s
        trace = self.trace(regime, seed, rate_per_s, duration_s)
        texts = _texts(regime)
        results = []
        for arm in arms:
            began_s, began_processor_s = time.perf_counter(), time.process_time()
            fleet = SimulatedFleet(arm, self._shape(regime), costs, texts, classes, seed)
            outcome = fleet.run(trace, duration_s)
            took = Took(time.perf_counter() - began_s, time.process_time() - began_processor_s)
            results.append(summarise(outcome, classes, (regime.name, arm.name, seed), took))
        return results


_INHERITED: tuple[Callable[[Job], list[Result]], Sequence[Job]]


def _run_inherited(i: int) -> list[Result]:
    work, jobs = _INHERITED
    return work(jobs[i])


def _run_job(experiment: Experiment, arms: Sequence[Arm], job: Job) -> list[Result]:
    return experiment.run_seed(*job, arms)


def _texts(regime: Regime) -> Texts:
    rng = np.random.default_rng(_TEXT_SEED)
    length = regime.shape.max_output_tokens
    return draw_texts(rng, length, _GAMMA, overconfidence=regime.overconfidence)
