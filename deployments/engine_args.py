"""From a model's settings to the arguments of its vLLM engine."""

from __future__ import annotations

from typing import Any

from deployments.checkpoints import checkpoint_directory
from deployments.draft_model import DraftShape
from deployments.engine.settings import WorkerSettings
from deployments.schema import ModelSpec

MIB = 1 << 20


def engine_kwargs(model: ModelSpec, shape: DraftShape | None) -> dict[str, Any]:
    """vLLM's engine arguments. `shape` is None with speculation off.

    The settings' own `engine_kwargs` win over ours.
    """
    target = model.target
    kwargs: dict[str, Any] = {
        "dtype": target.dtype,
        "tensor_parallel_size": target.tensor_parallel,
        "max_model_len": target.max_model_len,
        "max_num_seqs": target.max_num_seqs,
        "block_size": target.block_tokens,
        "kv_cache_memory_bytes": target.kv_cache_mib * MIB,
        "enforce_eager": True,
        "enable_prefix_caching": True,
        "worker_cls": "deployments.engine.worker.PlainCPUWorker",
    }
    if shape is not None:
        assert model.drafter is not None
        kwargs |= {
            "worker_cls": "deployments.engine.worker.DSparkCPUWorker",
            "speculative_config": {
                "method": "custom_class",
                "model": "deployments.engine.runner.DrafterInRunner",
                "num_speculative_tokens": shape.block_size,
            },
            "additional_config": WorkerSettings(
                placement=model.placement,
                target_dir=target_directory(model),
                target_layer_ids=shape.target_layer_ids,
                block_size=shape.block_size,
                block_tokens=target.block_tokens,
                num_context_tokens=model.drafter.num_context_tokens,
                deadline_s=model.drafter.deadline_ms / 1000,
                policy=model.policy,
                drafter=model.drafter.model_dump(),
                dtype=model.drafter.dtype,
                context_bytes=model.drafter.context_mib * MIB,
            ).to_config(),
        }
    return kwargs | target.engine_kwargs


def target_directory(model: ModelSpec) -> str:
    """The target's checkpoint on this machine. Raises ConfigError when there is none."""
    return str(checkpoint_directory(model.target.source, f"model {model.id}: target.source"))
