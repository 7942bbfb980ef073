"""What a controller takes with so many replicas: simulated reports, the controller that serves."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from autoscale.fleet_load import ClassOutcomes, ReplicaLoad
from autoscale.fleet_step_cost import StepCostReport
from autoscale.service_class import ServiceClass
from autoscale.step_cost import StepCostTable
from cluster.controller import TICK_S, FleetController
from cluster.messages import DrafterReport, TargetReport
from cluster.step_cost_learning import StepCostLearning
from profiles.step_cost import EngineProvenance

_MODEL = "m"
CLASSES = (ServiceClass("latency", 1.0, 0.05), ServiceClass("batch", 10.0, 0.5))
_ENGINE = EngineProvenance("simulated", _MODEL, "", "", "tp1", "", "", "")
STEPS_OF_REPLICA = StepCostReport(
    StepCostTable(tuple(2**i for i in range(9)), tuple(0.01 * 1.2**i for i in range(9))),
    (500.0,) * 9,
)
_LOAD = ReplicaLoad(
    running=20,
    waiting=3,
    seats=64,
    prefill_tokens=400,
    arrivals_per_s=2.0,
    prompt_tokens_per_s=800.0,
    tokens_per_s=900.0,
    relative_step_cost=1.0,
    step_s=0.02,
    num_drafts=10_000,
    accepted_tokens=21_000,
    draft_wait_s=0.004,
    outcomes={"latency": ClassOutcomes(30.0, 27.0), "batch": ClassOutcomes(30.0, 30.0)},
)


@dataclass(frozen=True, slots=True)
class FleetTimes:
    """Medians over ticks; `exchange_s` is the controller's own part, without messages.
    `outline_s` is what the metrics take every second, `snapshot_s` what `GET /fleet` does."""

    tick_s: float
    exchange_s: float
    outline_s: float
    snapshot_s: float


def target_reports(num_replicas: int) -> list[TargetReport]:
    """One of every replica, all of a model, no two as loaded, without statistics."""
    return [
        TargetReport(
            f"t{i}", _MODEL, "split", 1, load=replace(_LOAD, running=i % 64), engine=_ENGINE
        )
        for i in range(num_replicas)
    ]


def fleet_times(reports: Sequence[TargetReport], repeats: int) -> FleetTimes:
    """Every replica reports between two ticks; step costs are known of each, one drafter
    serves ten targets."""
    clock = [0.0]
    step_costs = StepCostLearning()
    num_replicas = len(reports)
    for report in reports:
        step_costs.absorb(_ENGINE, report.replica_id, STEPS_OF_REPLICA.to_plain())
    step_costs.refit({report.replica_id for report in reports})
    fleet = FleetController(lambda: clock[0], step_costs=step_costs, classes={_MODEL: CLASSES})
    for i in range(max(1, num_replicas // 10)):
        drafter = DrafterReport(f"d{i}", _MODEL, f"tcp://d{i}", 1)
        fleet.report_drafter(replace(drafter, secret=fleet.report_drafter(drafter).secret))
    ticks, exchanges, outlines, snapshots = [], [], [], []
    for _ in range(repeats):
        clock[0] += TICK_S
        ticks.append(_seconds(fleet.tick))
        exchanges.append(_seconds(lambda: [fleet.report_target(r) for r in reports]))
        outlines.append(_seconds(fleet.outline))
        snapshots.append(_seconds(fleet.snapshot))
    return FleetTimes(
        statistics.median(ticks),
        statistics.median(exchanges) / num_replicas,
        statistics.median(outlines),
        statistics.median(snapshots),
    )


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
