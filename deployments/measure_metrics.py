"""`dspark measure --metrics`: what publishing takes of a target's time."""

from __future__ import annotations

import statistics
import time

import ray

from cluster.fleet_bench import target_reports
from cluster.held_plan import HeldPlan
from cluster.observability.publisher import Publisher
from cluster.observability.samples import latency_samples, plan_samples, target_samples
from cluster.pace import SHORTEST_S
from deployments.busy_target import DRAFTS, REQUESTS, BusyTarget


def publish_s(repeats: int) -> float:
    """Median seconds that a target's exchange takes longer for its metrics."""
    metrics = Publisher("target", model="m", replica="r")
    (report,) = target_reports(1)
    target, held = BusyTarget(report), HeldPlan()
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
