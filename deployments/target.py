"""A target replica: vLLM behind `ray.serve.llm`'s server, and its exchange with the fleet."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import ray
from ray import serve
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from autoscale.admission import ReplicaLimits
from autoscale.service_class import ServiceClass
from cluster.messages import TargetPlan, TargetReport
from deployments.autoscaling import DEMAND, SEATS
from deployments.compatibility import accept_software
from deployments.controller import INTERVAL_S, find_controller
from deployments.pools import routing_stats
from deployments.replica_gate import ReplicaGate
from deployments.schema import DRAFTED_BY_US
from deployments.seated_requests import UNSEATED, seated
from deployments.specs import CaptureSpec
from profiles.provenance import DraftingPair

OUTCOMES_EVERY = 10  # exchanges: with outcomes of drafts
UNREAD_STEPS = 4  # of the engine's prefill, that may be seated ahead of their turn
logger = logging.getLogger(__name__)


class TargetServer(LLMServer):  # type: ignore[misc]
    """Serves one model. Reports what speculation did and takes its drafter from the plan.

    `pair` is what it drafts with, None where our adapter does not draft. `promises` are the
    service classes by name, the default one first; `queued_requests` wait for a seat at most.
    """

    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        *,
        placement: str,
        pair: DraftingPair | None,
        promises: Mapping[str, ServiceClass],
        queued_requests: int,
        capture: CaptureSpec | None = None,
        **kwargs: Any,
    ) -> None:
        accept_software()
        context = serve.get_replica_context()
        self._placement = placement
        self._pair = pair
        self._num_exchanges = 0
        self._app_name = context.app_name
        self._replica_id = context.replica_id.unique_id
        self._plan: TargetPlan | None = None
        self._ranks_agree = True
        await super().__init__(llm_config, **kwargs)
        if capture is not None:
            self.engine.keep_traffic(capture, self._replica_id)
        limits = ReplicaLimits(
            seats=self.engine.max_num_seqs,
            kv_tokens=self.engine.kv_tokens,
            unread_tokens=UNREAD_STEPS * self.engine.max_step_tokens,
            queued_requests=queued_requests,
        )
        self._gate = ReplicaGate(limits, promises)
        self._exchange = asyncio.create_task(self._exchange_forever())

    async def _run_request(
        self, request: Any, *, engine_method: str, raw_request_info: Any = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Every request passes here. What it yields for one that is refused: `TryLater`."""

        async def run() -> AsyncGenerator[Any, None]:
            stream: AsyncGenerator[Any, None] = await super(TargetServer, self)._run_request(
                request, engine_method=engine_method, raw_request_info=raw_request_info, **kwargs
            )
            return stream

        if engine_method in UNSEATED:
            return await run()
        headers = raw_request_info.headers if raw_request_info is not None else {}
        return seated(
            self._gate,
            request,
            headers,
            replica_id=self._replica_id,
            most_tokens=self.engine.max_model_len,
            run=run,
        )

    async def _exchange_forever(self) -> None:
        """One exchange per interval; whatever fails, the target goes on with what it has."""
        while True:
            try:
                await self._exchange_once()
            except (ValueError, ray.exceptions.RayError) as error:
                logger.info("no controller to report to yet: %s", error)
            except Exception:
                logger.exception("exchange with the controller failed")
            await asyncio.sleep(INTERVAL_S)

    async def _exchange_once(self) -> None:
        stats: dict[str, Any] = {}
        outcomes = None
        drafts = self._placement in DRAFTED_BY_US
        if drafts:
            (stats, *others) = await self.collective_rpc("dspark_stats")
            digests = {rank["committed_digest"] for rank in (stats, *others)}
            self._ranks_agree = stats["ranks_agree"] = len(digests) == 1
            self._num_exchanges += 1
            if self._num_exchanges % OUTCOMES_EVERY == 0:
                (outcomes, *_) = await self.collective_rpc("dspark_take_outcomes")
        stats["admission"] = self._gate.snapshot()
        model_id, pid = self._llm_config.model_id, os.getpid()
        plan = await find_controller(self._app_name).report_target.remote(
            TargetReport(
                self._replica_id, model_id, self._placement, pid, stats, self._pair, outcomes
            )
        )
        if drafts and plan != self._plan:
            await self.collective_rpc(
                "dspark_apply_plan",
                args=(
                    plan.drafter_address,
                    plan.secret,
                    plan.drafter_key,
                    plan.controls.model_dump(),
                    plan.calibrations,
                ),
            )
            self._plan = plan

    async def record_routing_stats(self) -> dict[str, Any]:
        return {**await super().record_routing_stats(), **routing_stats(self._gate.state())}

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return {DEMAND: self._gate.demand_seats(), SEATS: float(self._gate.seats())}

    async def check_health(self) -> None:
        if self._exchange.done():
            raise RuntimeError(f"target {self._replica_id} stopped reporting to the fleet")
        if not self._ranks_agree:
            raise RuntimeError(f"the ranks of target {self._replica_id} emitted different tokens")
        await super().check_health()
