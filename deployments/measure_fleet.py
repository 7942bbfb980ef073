"""`dspark measure --replicas N`: what the controller takes for a fleet of that size."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import ray

from cluster.fleet_bench import fleet_times
from cluster.messages import TargetReport
from cluster.pace import interval_s
from deployments.busy_target import busy_reports
from deployments.controller import PUBLISH_EVERY_S, ControllerActor, ControllerSettings

_IN_FLIGHT = 64
_PASSES = 3


def measure_fleet(num_replicas: int, repeats: int) -> str:
    """Ticks and exchanges inside the controller, then exchanges through Ray as served: reports
    of busy replicas from this process to a controller in its own, which is pinged and publishes
    every second, as its keeper has it."""
    reports = busy_reports(num_replicas)
    times = fleet_times(reports, repeats)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        rate = asyncio.run(_exchanges_per_s(reports))
    finally:
        ray.shutdown()
    return "\n".join(
        [
            f"controller with {num_replicas} replicas, medians of {repeats} ticks",
            f"tick: {1000 * times.tick_s:.2f} ms; exchange: {1e6 * times.exchange_s:.1f} us, "
            f"{1 / times.exchange_s:.0f} per second in the controller",
            f"metrics, every second: {1000 * times.outline_s:.1f} ms; GET /fleet: "
            f"{1000 * times.snapshot_s:.1f} ms",
            f"exchanges through Ray, {_IN_FLIGHT} in flight: {rate:.0f} per second, of which "
            f"{num_replicas / interval_s(num_replicas):.0f} are asked for",
        ]
    )


async def _exchanges_per_s(reports: list[TargetReport]) -> float:
    controller = ray.remote(ControllerActor).options(num_cpus=0).remote(ControllerSettings())
    await controller.ping.remote()
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def exchange(report: TargetReport) -> None:
        async with room:
            await controller.report_target.remote(report)

    keeper = asyncio.create_task(_keep(controller))
    began = time.perf_counter()
    for _ in range(_PASSES):
        await asyncio.gather(*(exchange(report) for report in reports))
    taken_s = time.perf_counter() - began
    keeper.cancel()
    return _PASSES * len(reports) / taken_s


async def _keep(controller: Any) -> None:
    while True:
        await controller.ping.remote()
        await controller.publish.remote()
        await asyncio.sleep(PUBLISH_EVERY_S)
