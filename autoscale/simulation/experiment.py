"""Arms side by side on the same traces and texts, regime by regime and seed by seed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context

import numpy as np

from autoscale.plan import ReplicaPlan
from autoscale.policy_settings import make_policy
from autoscale.service_class import ServiceClass
from autoscale.simulation.costs import SimulatedCosts
from autoscale.simulation.fleet import Arm, FleetShape, Outcome, SimulatedFleet
from autoscale.simulation.regimes import Regime
from autoscale.simulation.replica import Served
from autoscale.simulation.texts import Texts, draw_texts
from autoscale.simulation.traces import Arrival, draw_trace
from profiles.step_cost import StepCostProfile

DEFAULT = "fleet"
LATENCY, BATCH = "latency", "batch"
_GAMMA = 7
_COUNTED = 0.85  # of the duration: later arrivals are served but not judged
_SATURATED = 3.0  # times a first guess of the capacity
_TEXT_SEED = 7
_ABLATED: dict[str, object] = {
    "expected_prefill_tokens": None,
    "class_weights": {},
    "draft_wait_s": None,
    "shed_after_s": {},
    "routing_weight": 1.0,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """`steps` is a run's duration in decode steps of one request."""

    num_replicas: int = 8
    steps: int = 800
    seeds: int = 5
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Result:
    """One arm in one regime with one seed. Attainment is a share of requests, NaN of none."""

    regime: str
    arm: str
    seed: int
    tokens_per_s: float
    goodput_per_s: float
    latency_attainment: float
    batch_attainment: float
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    shed: int
    steps: int
    drafted_per_step: float
    accepted_share: float
    simulated_s: float
    wall_s: float


def classes_of(costs: SimulatedCosts) -> tuple[ServiceClass, ServiceClass]:
    """Promises in steps of one request: a tight class and a loose one."""
    step_s = costs.step_s(1, 1, 300)
    return (
        ServiceClass(LATENCY, ttft_s=40 * step_s, tpot_s=0.75 * step_s),
        ServiceClass(BATCH, ttft_s=200 * step_s, tpot_s=3 * step_s),
    )


def arms_of(costs: SimulatedCosts) -> list[Arm]:
    """The fixed policies, the local rule, and what the plan adds to it."""
    fixed = [("off", {"kind": "off"})] + [
        (f"fixed {k}", {"kind": "fixed", "k": k}) for k in (1, 3, 5, 7)
    ]
    learning = [("local", {"kind": "causal"}), ("lookahead", {"kind": "lookahead"})]
    arms = [Arm(name, partial(make_policy, s, costs.told)) for name, s in fixed + learning]
    return [*arms, Arm(DEFAULT, partial(make_policy, {"kind": "causal"}, costs.told), True)]


def ablations_of(costs: SimulatedCosts) -> list[Arm]:
    """The default without each field of the plan."""
    make = partial(make_policy, {"kind": "causal"}, costs.told)
    return [Arm(f"without {name}", make, True, partial(_without, name)) for name in _ABLATED]


def _without(name: str, plan: ReplicaPlan) -> ReplicaPlan:
    return replace(plan, **{name: _ABLATED[name]})  # type: ignore[arg-type]


class Experiment:
    """Everything a run needs but its regime, arm and seed."""

    def __init__(self, profile: StepCostProfile, settings: Settings) -> None:
        self.profile = profile
        self.settings = settings
        self.duration_s = settings.steps * SimulatedCosts.of(profile).step_s(1, 1, 300)
        self._capacities: dict[tuple[object, ...], float] = {}

    def run(
        self,
        regimes: Sequence[Regime],
        *,
        with_ablations: bool,
        progress: Callable[[str], None],
    ) -> list[Result]:
        """All arms in all regimes, over `workers` processes."""
        jobs = [
            (regime, seed, self.capacity_per_s(regime))
            for regime in regimes
            for seed in range(self.settings.seeds)
        ]
        results: list[Result] = []
        for some in self._map(partial(_run_job, self, with_ablations), jobs):
            results += some
            if some[0].seed == self.settings.seeds - 1:
                progress(f"{some[0].regime}: done")
        return results

    def _map(
        self,
        work: Callable[[tuple[Regime, int, float]], list[Result]],
        jobs: Sequence[tuple[Regime, int, float]],
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
        """Requests per second that the default policy serves when all seats are taken."""
        key = (regime.shape, regime.padded_tokens, regime.num_drafters)
        if key not in self._capacities:
            costs = self.costs(regime)
            seats = self._shape(regime).limits.seats
            step_s = costs.step_s(seats, seats, seats * 400)
            rate = _SATURATED * self.settings.num_replicas * seats / step_s
            rate /= regime.shape.mean_output_tokens
            plain = Regime("saturated", 1.0, shape=regime.shape, num_drafters=regime.num_drafters)
            duration_s = self.duration_s / 2
            trace = self.trace(plain, 0, rate, duration_s)
            arm = next(arm for arm in arms_of(costs) if arm.name == "local")
            texts = _texts(plain)
            fleet = SimulatedFleet(arm, self._shape(plain), costs, texts, classes_of(costs), 0)
            tokens_per_s = fleet.run(trace, duration_s).committed_tokens / duration_s
            self._capacities[key] = tokens_per_s / regime.shape.mean_output_tokens
        return self._capacities[key]

    def costs(self, regime: Regime) -> SimulatedCosts:
        return SimulatedCosts.of(self.profile, regime.padded_tokens)

    def trace(
        self, regime: Regime, seed: int, rate_per_s: float, duration_s: float
    ) -> list[Arrival]:
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
        return FleetShape(self.settings.num_replicas, regime.num_drafters, faults=regime.faults)

    def run_seed(
        self, regime: Regime, seed: int, capacity_per_s: float, *, with_ablations: bool
    ) -> list[Result]:
        """Every arm on one trace, on the same texts."""
        costs = self.costs(regime)
        classes = classes_of(costs)
        trace = self.trace(regime, seed, regime.load * capacity_per_s, self.duration_s)
        texts = _texts(regime)
        arms = arms_of(costs) + (ablations_of(costs) if with_ablations else [])
        results = []
        for arm in arms:
            began = time.perf_counter()
            fleet = SimulatedFleet(arm, self._shape(regime), costs, texts, classes, seed)
            outcome = fleet.run(trace, self.duration_s)
            wall_s = time.perf_counter() - began
            results.append(summarise(outcome, classes, (regime.name, arm.name, seed), wall_s))
        return results


_INHERITED: tuple[
    Callable[[tuple[Regime, int, float]], list[Result]], Sequence[tuple[Regime, int, float]]
]


def _run_inherited(i: int) -> list[Result]:
    work, jobs = _INHERITED
    return work(jobs[i])


def _run_job(
    experiment: Experiment, with_ablations: bool, job: tuple[Regime, int, float]
) -> list[Result]:
    regime, seed, capacity_per_s = job
    return experiment.run_seed(regime, seed, capacity_per_s, with_ablations=with_ablations)


def _texts(regime: Regime) -> Texts:
    rng = np.random.default_rng(_TEXT_SEED)
    length = regime.shape.max_output_tokens
    return draw_texts(rng, length, _GAMMA, overconfidence=regime.overconfidence)


def summarise(
    outcome: Outcome,
    classes: Sequence[ServiceClass],
    labels: tuple[str, str, int],
    wall_s: float,
) -> Result:
    """What a run comes to; requests that arrived late in it are not judged."""
    judged_s = _COUNTED * outcome.duration_s
    judged = [one for one in outcome.served if one.arrival.arrival_s <= judged_s]
    by_name = {one.name: one for one in classes}
    met = [_is_met(one, by_name[one.arrival.service_class]) for one in judged]
    met_of: dict[str, list[bool]] = {name: [] for name in by_name}
    for one, is_met in zip(judged, met, strict=True):
        met_of[one.arrival.service_class].append(is_met)
    ttft_s = [one.ttft_s for one in judged if one.ttft_s is not None]
    tpot_s = [one.tpot_s for one in judged if one.tpot_s is not None]
    totals = outcome.totals
    drafted = sum(one.draft_tokens for one in totals)
    steps = sum(one.steps for one in totals)
    regime, arm, seed = labels
    return Result(
        regime=regime,
        arm=arm,
        seed=seed,
        tokens_per_s=outcome.committed_tokens / outcome.duration_s,
        goodput_per_s=sum(met) / judged_s,
        latency_attainment=_mean(met_of[LATENCY]),
        batch_attainment=_mean(met_of[BATCH]),
        ttft_p50_s=_quantile(ttft_s, 0.5),
        ttft_p99_s=_quantile(ttft_s, 0.99),
        tpot_p50_s=_quantile(tpot_s, 0.5),
        tpot_p99_s=_quantile(tpot_s, 0.99),
        shed=sum(one.was_shed for one in outcome.served),
        steps=steps,
        drafted_per_step=drafted / max(steps, 1),
        accepted_share=sum(one.accepted_tokens for one in totals) / max(drafted, 1),
        simulated_s=outcome.duration_s,
        wall_s=wall_s,
    )


def _is_met(served: Served, promised: ServiceClass) -> bool:
    ttft_s, tpot_s = served.ttft_s, served.tpot_s
    return ttft_s is not None and tpot_s is not None and promised.is_met(ttft_s, tpot_s)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else float("nan")
