"""`dspark measure --replicas N`: what the controller takes for a fleet of that size."""

from __future__ import annotations

import asyncio
import time

import ray

from cluster.fleet_bench import fleet_times, target_reports
from cluster.messages import TargetReport
from deployments.controller import ControllerActor, ControllerSettings

_IN_FLIGHT = 64
_PASSES = 3


def measure_fleet(num_replicas: int, repeats: int) -> str:
    """Ticks and exchanges inside the controller, then exchanges through Ray as served: reports
    of simulated replicas from this process to a controller in its own."""
    times = fleet_times(num_replicas, repeats)
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    try:
        rate = asyncio.run(_exchanges_per_s(target_reports(num_replicas)))
    finally:
        ray.shutdown()
    return "\n".join(
        [
            f"controller with {num_replicas} replicas, medians of {repeats} ticks",
            f"tick: {1000 * times.tick_s:.2f} ms; exchange: {1e6 * times.exchange_s:.1f} us, "
            f"{1 / times.exchange_s:.0f} per second in the controller",
            f"exchanges through Ray, {_IN_FLIGHT} in flight: {rate:.0f} per second",
        ]
    )


async def _exchanges_per_s(reports: list[TargetReport]) -> float:
    controller = ray.remote(ControllerActor).options(num_cpus=0).remote(ControllerSettings())
    await controller.snapshot.remote()
    room = asyncio.Semaphore(_IN_FLIGHT)

    async def exchange(report: TargetReport) -> None:
        async with room:
            await controller.report_target.remote(report)

    began = time.perf_counter()
    for _ in range(_PASSES):
        await asyncio.gather(*(exchange(report) for report in reports))
    return _PASSES * len(reports) / (time.perf_counter() - began)
