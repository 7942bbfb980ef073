"""A drafter replica: the draft engine behind a ZeroMQ socket, and its reports."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

import ray
import torch
from ray import serve

from cluster.messages import DrafterPlan, DrafterReport
from cluster.observability.publisher import Publisher
from cluster.observability.samples import drafter_samples
from cluster.pace import SHORTEST_S, next_in_s
from deployments.autoscaling import BUSY, Drafted, drafter_stats
from deployments.controller_link import ControllerLink, NoAnswerError
from deployments.draft_model import make_draft_engine
from deployments.tracing.draft_spans import record_step
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import tracing_of
from drafters.server import DraftServer

SERVICE = "dspark-drafter"  # in traces
logger = logging.getLogger(__name__)


class SinceLast:
    """What `drafter_stats` says of the time since one listener last asked.

    `clock` is in seconds.
    """

    def __init__(self, stats: Drafted, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told = (clock(), stats)

    def take(self, stats: Drafted) -> dict[str, float]:
        (since_s, before), now_s = self._told, self._clock()
        self._told = (now_s, stats)
        return drafter_stats(before, stats, now_s - since_s)


class DrafterServer:
    """Drafts for the targets the controller assigns. Draft data never passes through Ray.

    `engine` are the arguments of `make_draft_engine`. A drafter on trial reports to another
    application, `app_name`, as its `canary`, with its `version`. Targets hear of the server
    once the controller has given it the secret that they present.
    """

    def __init__(
        self,
        model_id: str,
        threads: int,
        engine: dict[str, Any],
        *,
        device: str = "cpu",
        encrypted: bool = False,
        tracing: TracingSpec | None = None,
        app_name: str | None = None,
        canary: str = "",
        version: tuple[str, str] | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        context = serve.get_replica_context()
        self._model_id = model_id
        self._app_name = app_name or context.app_name
        self._canary, self._version = canary, version
        self._replica_id = context.replica_id.unique_id
        self._engine = make_draft_engine(**engine, device=torch.device(device))
        self._server = DraftServer(
            self._engine,
            host=ray.util.get_node_ip_address(),
            secret=secrets.token_hex(16),  # nobody's, until the controller gives its own
            shape=self._engine.model.config.shape,
            encrypted=encrypted,
            on_traced=partial(record_step, tracing_of(tracing, SERVICE)),
        )
        self._server.start()
        self._interval_s = SHORTEST_S
        self._of_policy = SinceLast(self._server.stats)
        self._of_reports = SinceLast(self._server.stats)
        self._reports = asyncio.get_running_loop().create_task(self._report_forever())

    async def _report_forever(self) -> None:
        metrics = Publisher("drafter", model=self._model_id, replica=self._replica_id)
        controller = ControllerLink(self._app_name)
        while True:
            try:
                report = self._report()
                metrics.publish(drafter_samples(report))
                plan: DrafterPlan = await controller.ask("report_drafter", report)
                self._server.secret, self._interval_s = plan.secret, plan.interval_s
            except NoAnswerError as error:
                logger.info("no controller to report to yet: %s", error)
            except Exception:
                logger.exception("report to the controller failed")
            await asyncio.sleep(next_in_s(self._interval_s))

    def _report(self) -> DrafterReport:
        stats = self._server.stats
        return DrafterReport(
            replica_id=self._replica_id,
            model_id=self._model_id,
            address=self._server.address,
            pid=os.getpid(),
            stats=asdict(stats) | {"engine": asdict(self._engine.stats)},
            public_key=self._server.public_key,
            secret=self._server.secret,
            canary=self._canary,
            drafter=self._version,
            busy=self._of_reports.take(stats)[BUSY],
            interval_s=self._interval_s,
        )

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Of the time since the last call."""
        return self._of_policy.take(self._server.stats)

    async def check_health(self) -> None:
        """Raises when the draft loop or the reporting stopped; Serve replaces the replica."""
        if not self._server.is_alive or self._reports.done():
            raise RuntimeError(f"drafter {self._replica_id} stopped drafting or reporting")

    def __del__(self) -> None:
        server = getattr(self, "_server", None)
        if server is not None:
            server.stop()
