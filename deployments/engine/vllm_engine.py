"""`ray.serve.llm`'s vLLM engine, mended, and on processors kept in one process."""

from __future__ import annotations

from typing import Any

from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

from deployments.engine.frontend import mend_frontend, mend_text


class MendedEngine(VLLMEngine):  # type: ignore[misc]
    """The engine where our adapter drafts, or nobody does.

    On processors `ray.serve.llm` always asks for the multi-process executor. For one worker
    that is a process more to start, imports and all, and a message there and back in every
    step; vLLM's own default is the worker in-process.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mend_frontend()
        super().__init__(*args, **kwargs)

    def _prepare_engine_config(self, callback_ctx: Any) -> tuple[Any, Any, Any]:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        on_processors = self.llm_config.accelerator_config.kind == "cpu"
        if on_processors and config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = "uni"
        return engine_args, frontend_args, config


class NativeEngine(VLLMEngine):  # type: ignore[misc]
    """The engine that drafts by itself. What it cannot verify it goes on refusing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        mend_text()
        super().__init__(*args, **kwargs)
