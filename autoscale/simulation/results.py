"""What one run of a simulation comes to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from autoscale.service_class import ServiceClass
from autoscale.simulation.fleet import Outcome
from autoscale.simulation.served import Served

LATENCY, BATCH = "latency", "batch"
_COUNTED = 0.7  # of the duration: later arrivals are served but not judged


class Took(NamedTuple):
    """Of a process, for one run; beside other work on the machine only the latter says much."""

    wall_s: float
    processor_s: float


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
    processor_s: float


def summarise(
    outcome: Outcome,
    classes: Sequence[ServiceClass],
    labels: tuple[str, str, int],
    took: Took,
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
        ttft_p50_s=quantile(ttft_s, 0.5),
        ttft_p99_s=quantile(ttft_s, 0.99),
        tpot_p50_s=quantile(tpot_s, 0.5),
        tpot_p99_s=quantile(tpot_s, 0.99),
        shed=sum(one.was_shed for one in outcome.served),
        steps=steps,
        drafted_per_step=drafted / max(steps, 1),
        accepted_share=sum(one.accepted_tokens for one in totals) / max(drafted, 1),
        simulated_s=outcome.duration_s,
        wall_s=took.wall_s,
        processor_s=took.processor_s,
    )


def _is_met(served: Served, promised: ServiceClass) -> bool:
    ttft_s, tpot_s = served.ttft_s, served.tpot_s
    return ttft_s is not None and tpot_s is not None and promised.is_met(ttft_s, tpot_s)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def quantile(values: Sequence[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else float("nan")
