"""`dspark measure --metrics`: what publishing takes of a target's time."""

from __future__ import annotations

import statistics
import time
from dataclasses import asdict, replace

import ray

from autoscale.causal_policy import Causal
from autoscale.class_counts import ClassTotals, Latency
from autoscale.step_cost import StepCostTable
from cluster.fleet_bench import CLASSES, target_reports
from cluster.held_plan import HeldPlan
from cluster.messages import TargetReport
from cluster.observability.publisher import Publisher
from cluster.observability.samples import latency_samples, plan_samples, target_samples
from cluster.pace import SHORTEST_S
from deployments.engine.engine_step import AdapterStats
from drafters.sources import SourceStats

BLOCK_SIZE = 7
STEPS, DRAFTS, REQUESTS = 25, 200, 10  # of a busy target between two exchanges


class BusyTarget:
    """What a target that drafts for eight requests a step says, exchange after exchange."""

    def __init__(self) -> None:
        (self._report,) = target_reports(1)
        self._stats = AdapterStats.of_blocks(BLOCK_SIZE)
        self._source = SourceStats()
        self._policy = Causal(StepCostTable((1, 256), (0.010, 0.011)))
        self._num_exchanges = 0

    def report(self) -> TargetReport:
        self._num_exchanges += 1
        n = self._num_exchanges
        for i in range(DRAFTS):
            self._stats.count_draft(BLOCK_SIZE, i % (BLOCK_SIZE + 1))
        self._stats.ineligible["seed"] = n
        self._source = replace(
            self._source, requests=n * STEPS, replies=n * STEPS, bytes_sent=n << 20
        )
        totals = ClassTotals(arrived=n * REQUESTS, admitted=n * REQUESTS, met=n * REQUESTS)
        classes = {promise.name: asdict(totals) for promise in CLASSES}
        expected = [float(n * DRAFTS) / (k + 2) for k in range(BLOCK_SIZE)]
        stats = self._stats.to_plain() | {
            "expected_by_position": expected,
            "expected_tokens": sum(expected),
            "sessions": 8,
            "mean_step_s": 0.02,
            "mean_draft_wait_s": 0.004,
            "mean_plan_s": 0.0002,
            "schedule": self._policy.snapshot(),
            "source": asdict(self._source),
            "admission": {"seats": 32, "classes": classes},
        }
        return replace(self._report, stats=stats)

    def latencies(self) -> list[Latency]:
        return [Latency(CLASSES[i % len(CLASSES)].name, 0.1, 0.02) for i in range(REQUESTS)]


def publish_s(repeats: int) -> float:
    """Median seconds that a target's exchange takes longer for its metrics."""
    metrics = Publisher("target", model="m", replica="r")
    target, held = BusyTarget(), HeldPlan()
    times = []
    for _ in range(repeats + 1):  # the first one makes the series
        report, latencies = target.report(), target.latencies()
        began_s = time.perf_counter()
        metrics.publish(target_samples(report))
        metrics.publish(latency_samples(latencies))
        metrics.publish(plan_samples(held.snapshot(), 0))
        times.append(time.perf_counter() - began_s)
    return statistics.median(times[1:])


def measure_metrics(repeats: int) -> str:
    """On a Ray of its own, as a process of it keeps what it publishes for the node's agent."""
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        taken_s = publish_s(repeats)
    finally:
        ray.shutdown()
    return (
        f"metrics, {REQUESTS} requests ended and {DRAFTS} drafts per exchange: "
        f"{1000 * taken_s:.2f} ms of every {1000 * SHORTEST_S:.0f}, {taken_s / SHORTEST_S:.2%}"
    )
