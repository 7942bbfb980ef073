"""A target replica's exchange with the controller: report up, plan down, once per interval."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace

from autoscale.class_counts import Latency
from cluster.held_plan import HeldPlan
from cluster.messages import TargetReport
from cluster.observability.publisher import Publisher
from cluster.observability.samples import latency_samples, plan_samples, target_samples
from cluster.pace import next_in_s
from deployments.controller_link import ControllerLink, NoAnswerError
from deployments.readers import Readers

logger = logging.getLogger(__name__)


async def exchange_forever(
    app_name: str,
    held: HeldPlan,
    metrics: Publisher,
    *,
    report: Callable[[], Awaitable[TargetReport]],
    latencies: Callable[[], Iterable[Latency]],
    readers: Readers,
    go_by_plan: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Whatever fails, the target goes on with what it has.

    `report` and `latencies` are asked for in every interval and published; `go_by_plan` is
    called with a new plan in `held`, and `readers` hear which ingresses are gone.
    """

    controller = ControllerLink(app_name)

    async def once() -> None:
        said = replace(await report(), interval_s=held.interval_s)
        metrics.publish(target_samples(said))
        metrics.publish(latency_samples(latencies()))
        plan = await controller.ask("report_target", said)
        if held.take(plan):
            readers.gone(plan.gone_ingresses)
            if go_by_plan is not None:
                await go_by_plan()

    num_failed = 0
    while True:
        try:
            await once()
        except NoAnswerError as error:
            logger.info("no controller to report to now: %s", error)
            num_failed += 1
        except Exception:
            logger.exception("exchange with the controller failed")
            num_failed += 1
        metrics.publish(plan_samples(held.snapshot(), num_failed))
        await asyncio.sleep(next_in_s(held.interval_s))
