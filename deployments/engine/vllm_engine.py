"""`ray.serve.llm`'s vLLM engine, with the executor that fits the target's ranks."""

from __future__ import annotations

import atexit
import logging
import math
from pathlib import Path
from typing import Any

import zmq
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

from deployments.engine.frontend import mend_frontend, mend_native_frontend, refusing_what_kills
from deployments.engine.resume import resuming
from deployments.engine.said import Resuming
from deployments.engine.seat_tokens import tell_seats
from deployments.engine.traffic import observed
from deployments.engine.vital import Vital, dying_with_the_engine
from deployments.engine_args import DRAFTING_WORKERS, MIB, PLAIN_CPU_WORKER
from deployments.plan_channel import PlanPublisher
from deployments.prefill import KEY
from deployments.specs import CaptureSpec
from drafters.capture import TrafficCapture
from drafters.redaction import Redactor

logger = logging.getLogger(__name__)

RESUMING_SCHEDULERS = {
    False: "deployments.engine.said.ResumingScheduler",
    True: "deployments.engine.said.ResumingAsyncScheduler",
}

OUR_WORKERS = (PLAIN_CPU_WORKER, *DRAFTING_WORKERS.values())


def why_not_resuming(config: Any) -> str | None:
    """Why an engine of this `VllmConfig` cannot take streams up; None when it can."""
    if not issubclass(config.scheduler_config.get_scheduler_cls(), Resuming):
        return "the engine's scheduler_cls is not one of deployments.engine.said"
    if not config.use_v2_model_runner and config.parallel_config.worker_cls not in OUR_WORKERS:
        return "the engine's worker has vLLM's V1 runner, without our part in it"
    return None


class _Engine(VLLMEngine):  # type: ignore[misc]
    """What all our engines have: streams of lost targets can go on in them, and tokens are told
    to the seats of their requests.

    Ray 2.60 looks for vLLM's tokenisation under a name that vLLM 0.29 no longer uses. It also
    starts a worker process per node, imports and all, to fetch what lies in a bucket; directories
    and hub ids, all that a target may be (`checkpoint_source`), need none.
    """

    plans: PlanPublisher | None = None  # to the scheduler, where it goes by the fleet's plan

    async def start(self) -> None:
        self.llm_config.get_or_create_callback().ctx.run_init_node = False
        await super().start()
        tell_seats(self._engine_client.output_processor)
        if self._oai_serving_tokenization is None:  # type: ignore[has-type]
            self._oai_serving_tokenization = getattr(self._app_state, "serving_tokenization", None)
        client = self._engine_client
        unable = why_not_resuming(client.vllm_config)
        generate = dying_with_the_engine(client.generate)
        generate = resuming(generate, client.get_tokenizer(), unable)
        client.generate = refusing_what_kills(generate, client.vllm_config)
        self.vital = Vital(client)

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        scheduler = config.scheduler_config
        if scheduler.scheduler_cls is None:
            scheduler.scheduler_cls = RESUMING_SCHEDULERS[bool(scheduler.async_scheduling)]
        if KEY in config.additional_config:
            self.plans = self._plan_publisher()
        return engine_args, frontend_args, config

    @staticmethod
    def _plan_publisher() -> PlanPublisher | None:
        try:
            return PlanPublisher()
        except (OSError, zmq.ZMQError) as error:
            logger.warning("the scheduler goes by local rules, no plan reaches it: %s", error)
            return None

    @property
    def kv_tokens(self) -> float:
        """Tokens of context that the KV cache holds, of all requests together; infinite for a
        model without one, as some that embed are."""
        cache = self._engine_client.vllm_config.cache_config
        return (cache.num_gpu_blocks or math.inf) * int(cache.block_size)

    @property
    def is_on_processors(self) -> bool:
        """Whether it has no accelerator."""
        return str(self._engine_client.vllm_config.device_config.device_type) == "cpu"

    @property
    def max_model_len(self) -> int:
        return int(self._engine_client.model_config.max_model_len)

    @property
    def max_num_seqs(self) -> int:
        return int(self._engine_client.vllm_config.scheduler_config.max_num_seqs)

    @property
    def max_step_tokens(self) -> int:
        return int(self._engine_client.vllm_config.scheduler_config.max_num_batched_tokens)

    def keep_traffic(self, spec: CaptureSpec, replica_id: str) -> None:
        """Keep served token ids from now on, as `spec` says."""
        client = self._engine_client
        capture = TrafficCapture(
            Path(spec.directory),
            replica_id,
            model_id=self.llm_config.model_id,
            redact=Redactor(client.get_tokenizer()) if spec.redact else None,
            fraction=spec.fraction,
            max_bytes=spec.max_mib * MIB,
        )
        atexit.register(capture.close)
        client.generate = observed(client.generate, capture.offer)


class TargetEngine(_Engine):
    """The engine where our adapter drafts, or nobody does.

    On processors `ray.serve.llm` always asks for the multi-process executor. For one rank
    that is a process more to start, imports and all, and a message there and back in every
    step; vLLM's own default is the worker in-process. For ranks on several nodes it cannot
    work: there the executor is Ray's, if the engine's arguments say so. On GPUs it is always
    Ray's: the replica itself has none.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mend_frontend()
        super().__init__(*args, **kwargs)

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        asked = self.llm_config.engine_kwargs.get("distributed_executor_backend")
        on_processors = self.llm_config.accelerator_config.kind == "cpu"
        if on_processors and parallel.world_size == 1 and asked is None:
            parallel.distributed_executor_backend = "uni"
        elif asked == "ray":
            parallel.distributed_executor_backend = "ray"
        return engine_args, frontend_args, config


class NativeEngine(_Engine):
    """The engine that drafts by itself. What it cannot verify it goes on refusing, and what
    it would ignore is refused too."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mend_native_frontend()
        super().__init__(*args, **kwargs)
