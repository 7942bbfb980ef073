"""A target replica: vLLM behind `ray.serve.llm`'s server, and its exchange with the fleet."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from ray import serve
from ray.serve.llm import LLMConfig
from ray.serve.llm.deployment import LLMServer

from autoscale.admission import ReplicaLimits
from autoscale.fleet_step_cost import StepCostReport
from autoscale.service_class import ServiceClass
from cluster.held_plan import HeldPlan
from cluster.load_report import replica_load
from cluster.messages import TargetReport
from cluster.observability.publisher import Publisher
from deployments.autoscaling import target_stats
from deployments.chunk_pacing import BESIDE_ENGINE_S, PER_STREAM_S, Pace
from deployments.compatibility import accept_software
from deployments.ending import end_process
from deployments.engine.worker_plan import WorkerPlan
from deployments.exchange import exchange_forever
from deployments.giving_way import give_way
from deployments.native import Steering
from deployments.pools import routing_stats
from deployments.progress import TICK_S, ProgressWatch, Verdict
from deployments.replica_gate import ReplicaGate
from deployments.schema import DRAFTED_BY_US, Placement
from deployments.seated_requests import UNSEATED, seated
from deployments.specs import CaptureSpec
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import tracing_of
from deployments.tracing.traceparent import TRACEPARENT
from profiles.provenance import DraftingPair
from profiles.step_cost import EngineProvenance

OUTCOMES_EVERY = 10  # exchanges: with outcomes of drafts and what steps take
NEW_FOR = 4  # exchanges in which the fleet's step costs are asked for
FIRST_TOKEN_LIMITS = 10  # a first step reads weights from disk and compiles kernels
UNREAD_STEPS = 4  # of the engine's prefill, that may be seated ahead of their turn
SERVICE = "dspark-target"  # in traces


class TargetServer(LLMServer):  # type: ignore[misc]
    """Serves one model. Reports its load and what speculation did, and goes by the plan.

    `pair` is what it drafts with, None where our adapter does not draft. `promises` are the
    service classes by name, the default one first; `queued_requests` wait for a seat at most.
    It is ready when its engine has made a token, for which it has ten times `stall_limit_s`. An
    engine from which nothing comes for `stall_limit_s` then, not even a probe, takes its replica
    with it. With `steering` vLLM drafts and verifies adaptively, and the plan reaches its
    verification.
    """

    async def __init__(  # type: ignore[misc]
        self,
        llm_config: LLMConfig,
        *,
        placement: Placement,
        pair: DraftingPair | None,
        promises: Mapping[str, ServiceClass],
        queued_requests: int,
        stall_limit_s: float,
        steering: Steering | None = None,
        capture: CaptureSpec | None = None,
        tracing: TracingSpec | None = None,
        **kwargs: Any,
    ) -> None:
        accept_software([placement])
        context = serve.get_replica_context()
        self._placement = placement
        self._pair = pair
        self._drafts = placement in DRAFTED_BY_US
        self._steering = steering
        self._num_exchanges = 0
        self._reported: dict[str, Any] = {}  # statistics of the last report
        self._replica_id = context.replica_id.unique_id
        self._held = HeldPlan()
        self._is_new = True
        self._steered_by: WorkerPlan | None = None
        self._step_costs_of: EngineProvenance | None = None
        self._ranks_agree = True
        self._tracing = tracing_of(tracing, SERVICE)
        await super().__init__(llm_config, **kwargs)
        await self._answer_once(FIRST_TOKEN_LIMITS * stall_limit_s)
        self._pace = Pace(BESIDE_ENGINE_S if self.engine.is_on_processors else PER_STREAM_S)
        if self.engine.is_on_processors:
            give_way()
        if capture is not None:
            self.engine.keep_traffic(capture, self._replica_id)
        limits = ReplicaLimits(
            seats=self.engine.max_num_seqs,
            kv_tokens=self.engine.kv_tokens,
            unread_tokens=UNREAD_STEPS * self.engine.max_step_tokens,
            queued_requests=queued_requests,
        )
        self._gate = ReplicaGate(limits, promises)
        if self._drafts:
            (provenance, *_) = await self.collective_rpc("dspark_provenance")
            self._step_costs_of = EngineProvenance(**provenance)
            await self._take_step_cost()
        if steering is not None and steering.step_cost is not None:
            args = (steering.step_cost, list(steering.step_cost_override), steering.nodes)
            await self.collective_rpc("dspark_use_step_cost", args=args)
        self._exchange = asyncio.create_task(
            exchange_forever(
                context.app_name,
                self._held,
                Publisher("target", model=llm_config.model_id, replica=self._replica_id),
                report=self._report,
                latencies=self._gate.take_latencies,
                readers=self._gate.readers,
                go_by_plan=self._go_by_plan,
            )
        )
        self._watch = asyncio.create_task(self._watch_forever(ProgressWatch(stall_limit_s)))

    async def _answer_once(self, limit_s: float) -> None:
        try:
            await self.engine.vital.answer_once(limit_s)
        except TimeoutError:
            raise RuntimeError(
                f"target {self._replica_id}: its engine made no token within {limit_s:g} s of its "
                "start; where it is only slow, set target.stall_limit_s higher"
            ) from None

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

    async def _run_request(
        self, request: Any, *, engine_method: str, raw_request_info: Any = None, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        """Every request passes here. What it yields for one that is refused: `TryLater`."""

        async def run(info: Any) -> AsyncGenerator[Any, None]:
            stream: AsyncGenerator[Any, None] = await super(TargetServer, self)._run_request(
                request, engine_method=engine_method, raw_request_info=info, **kwargs
            )
            return stream

        if engine_method in UNSEATED:
            return await run(raw_request_info)
        headers = raw_request_info.headers if raw_request_info is not None else {}
        trace = self._tracing.continued("target", headers.get(TRACEPARENT))
        if trace.traceparent:  # the engine's own span goes within it
            within = {**headers, TRACEPARENT: trace.traceparent}
            raw_request_info = replace(raw_request_info, headers=within)
        return seated(
            self._gate,
            request,
            headers,
            replica_id=self._replica_id,
            most_tokens=self.engine.max_model_len,
            run=partial(run, raw_request_info),
            trace=trace,
        )

    def _batch_output_stream(
        self, generator: AsyncGenerator[Any, None]
    ) -> AsyncGenerator[list[Any], None]:
        return self._pace.stream(generator)

    async def _go_by_plan(self) -> None:
        if self.engine.plans is not None and self._held.plan is not None:
            self.engine.plans.publish(self._held.plan.advice, self._held.plan.ttl_s)
        if self._drafts:
            await self._apply()
        elif self._steering is not None:
            await self._steer(self._steering)

    async def _report(self) -> TargetReport:
        stats: dict[str, Any] = {}
        outcomes = canary_outcomes = step_cost = None
        if self._drafts:
            (stats, *others) = await self.collective_rpc("dspark_stats")
            digests = {rank["committed_digest"] for rank in (stats, *others)}
            self._ranks_agree = stats["ranks_agree"] = len(digests) == 1
            self._num_exchanges += 1
            if self._num_exchanges % OUTCOMES_EVERY == 0:
                ((outcomes, canary_outcomes), *_) = await self.collective_rpc(
                    "dspark_take_outcomes"
                )
                step_cost = await self._take_step_cost()
        elif self._steering is not None:
            controls = self._steered_by.controls if self._steered_by else {}
            stats = {"steered": True, "controls": controls}
        load = replica_load(
            self._gate.take_traffic(), self.engine.max_num_seqs, stats, self._reported
        )
        self._reported = stats
        return TargetReport(
            self._replica_id,
            self._llm_config.model_id,
            self._placement,
            os.getpid(),
            stats | {"admission": self._gate.snapshot()},
            self._pair,
            outcomes,
            load,
            self._step_costs_of,
            step_cost,
            self._is_new,
            self._held.snapshot(),
            canary_outcomes,
            self._held.plan.drafter_address if self._held.plan is not None else None,
        )

    async def _take_step_cost(self) -> dict[str, Any] | None:
        """What steps take by now, for the fleet and for this replica's own gate."""
        step_cost: dict[str, Any] | None
        (step_cost, *_) = await self.collective_rpc("dspark_step_cost")
        if step_cost is not None:
            with suppress(ValueError):  # out of all bounds: the last one goes on
                self._gate.step_costs = StepCostReport.from_plain(step_cost)
        return step_cost

    async def _apply(self) -> None:
        """Hand the plan just taken to the worker, which goes by it from its next step on."""
        plan = self._held.plan
        assert plan is not None
        worker_plan = WorkerPlan(
            plan.drafter_address,
            plan.secret,
            plan.drafter_key,
            plan.controls.model_dump(),
            plan.calibrations,
            plan.step_cost,
            plan.canary,
            asdict(plan.advice),
            plan.ttl_s,
        )
        await self.collective_rpc("dspark_apply_plan", args=(worker_plan.to_plain(),))
        self._is_new = self._is_new and self._num_exchanges < NEW_FOR

    async def _steer(self, steering: Steering) -> None:
        """Hand what vLLM's own verification can take of the plan to every rank."""
        plan = self._held.plan
        assert plan is not None
        controls = plan.controls.model_dump(exclude_none=True)
        calibrations = plan.calibrations or steering.calibrations
        worker_plan = WorkerPlan(controls=controls, calibrations=calibrations)
        if worker_plan != self._steered_by:
            await self.collective_rpc("dspark_apply_plan", args=(worker_plan.to_plain(),))
            self._steered_by = worker_plan

    async def record_routing_stats(self) -> dict[str, Any]:
        return {
            **await super().record_routing_stats(),
            **routing_stats(self._gate.state(), self._gate.costs),
        }

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return target_stats(self._gate.demand_seats(), self._gate.capacity())

    async def check_health(self) -> None:
        if self._watch.done():
            raise RuntimeError(f"nobody watches over target {self._replica_id} any more")
        if self._exchange.done():
            raise RuntimeError(f"target {self._replica_id} stopped reporting to the fleet")
        if not self._ranks_agree:
            raise RuntimeError(f"the ranks of target {self._replica_id} emitted different tokens")
        await super().check_health()
