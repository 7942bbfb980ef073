"""A target replica: vLLM behind `ray.serve.llm`'s server, and its exchange with the fleet."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import ray
from ray import serve
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from cluster.messages import TargetPlan, TargetReport
from deployments.compatibility import accept_software
from deployments.controller import INTERVAL_S, find_controller
from deployments.ending import end_process
from deployments.progress import TICK_S, ProgressWatch, Verdict
from deployments.schema import DRAFTED_BY_US
from deployments.specs import CaptureSpec
from profiles.provenance import DraftingPair

OUTCOMES_EVERY = 10  # exchanges: with outcomes of drafts
logger = logging.getLogger(__name__)


class TargetServer(LLMServer):  # type: ignore[misc]
    """Serves one model. Reports what speculation did and takes its drafter from the plan.

    `pair` is what it drafts with, None where our adapter does not draft. An engine from which
    nothing comes for `stall_limit_s`, not even a probe, takes its replica with it.
    """

    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        *,
        placement: str,
        pair: DraftingPair | None,
        stall_limit_s: float,
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
        self._exchange = asyncio.create_task(self._exchange_forever())
        self._watch = asyncio.create_task(self._watch_forever(ProgressWatch(stall_limit_s)))

    async def _watch_forever(self, watch: ProgressWatch) -> None:
        """Ends the replica when its engine is dead or wedged: see `deployments.progress`."""
        while True:
            await asyncio.sleep(TICK_S)
            vital = self.engine.vital
            if vital.is_dead:
                end_process("its engine died")
            verdict = watch.tick(vital.num_results)
            if verdict is Verdict.PROBE:
                vital.probe()
            elif verdict is Verdict.WEDGED:
                end_process(f"nothing came from its engine for {watch.limit_s:g} s")

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

    async def check_health(self) -> None:
        if self._watch.done():
            raise RuntimeError(f"nobody watches over target {self._replica_id} any more")
        if self._exchange.done():
            raise RuntimeError(f"target {self._replica_id} stopped reporting to the fleet")
        if not self._ranks_agree:
            raise RuntimeError(f"the ranks of target {self._replica_id} emitted different tokens")
        await super().check_health()
