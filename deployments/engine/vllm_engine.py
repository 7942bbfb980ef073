"""`ray.serve.llm`'s vLLM engine, with a single worker kept in the engine's own process."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

from deployments.engine.frontend import mend_frontend


class UniprocEngine(VLLMEngine):  # type: ignore[misc]
    """On processors `ray.serve.llm` always asks for the multi-process executor.

    For one worker that is a process more to start, imports and all, and a
    message there and back in every step; vLLM's own default is the worker in-process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mend_frontend()
        super().__init__(*args, **kwargs)

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        if config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = "uni"
        return engine_args, frontend_args, config
