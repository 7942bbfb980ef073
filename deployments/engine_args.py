"""From a model's settings to the arguments of its vLLM engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deployments.checkpoints import checkpoint_directory, checkpoint_source
from deployments.draft_model import DraftShape
from deployments.drafting_pair import starting_calibrations
from deployments.engine.settings import WorkerSettings
from deployments.errors import ConfigError
from deployments.loras import lora_kwargs
from deployments.native import Steering, speculative_config
from deployments.schema import ModelSpec
from deployments.tracing.spec import TracingSpec
from profiles.provenance import ProfileError
from profiles.step_cost import load_step_cost

MIB = 1 << 20
PLAIN_CPU_WORKER = "deployments.engine.worker.PlainCPUWorker"
STEERED = "deployments.engine.native_extension.AdaptiveVerificationExtension"
DRAFTING_WORKERS = {
    "cpu": "deployments.engine.worker.DSparkCPUWorker",
    "cuda": "deployments.engine.cuda_worker.DSparkGPUWorker",
}


def engine_kwargs(
    model: ModelSpec, shape: DraftShape | None, tracing: TracingSpec | None = None
) -> dict[str, Any]:
    """vLLM's engine arguments. `shape` is None where our adapter does not draft.

    The settings' own `engine_kwargs` win over ours. Raises ConfigError where a checkpoint
    that they name is missing or does not fit.
    """
    target = model.target
    kwargs: dict[str, Any] = {
        "dtype": target.dtype,
        "tensor_parallel_size": target.tensor_parallel,
        "max_model_len": target.max_model_len,
        "max_num_seqs": target.max_num_seqs,
        "block_size": target.block_tokens,
        "kv_cache_memory_bytes": target.kv_cache_mib * MIB,
        "enable_prefix_caching": True,
        "load_format": "safetensors",  # nothing is unpickled
    }
    if target.revision is not None:
        kwargs |= {"revision": target.revision, "tokenizer_revision": target.revision}
    if target.nodes > 1:
        kwargs["distributed_executor_backend"] = "ray"
    if target.device == "cpu":
        kwargs |= {"enforce_eager": True, "worker_cls": PLAIN_CPU_WORKER}
    if shape is not None:
        kwargs |= _drafting(model, shape, tracing)
    elif model.placement == "native":
        kwargs["speculative_config"] = speculative_config(model)
        if model.native.adaptive_verification:
            kwargs["worker_extension_cls"] = STEERED
    if tracing is not None:
        kwargs |= tracing.engine_kwargs()
    return kwargs | lora_kwargs(model) | target.engine_kwargs


def _drafting(model: ModelSpec, shape: DraftShape, tracing: TracingSpec | None) -> dict[str, Any]:
    """What puts our adapter into the target's workers."""
    drafter = model.drafter
    assert drafter is not None
    return {
        "worker_cls": DRAFTING_WORKERS[model.target.device],
        # vLLM's compile cache does not see which layers' outputs are features.
        "enforce_eager": True,
        "speculative_config": {
            "method": "custom_class",
            "model": "deployments.engine.runner.DrafterInRunner",
            "num_speculative_tokens": shape.block_size,
        },
        "additional_config": WorkerSettings(
            placement=model.placement,
            target_dir=target_source(model),
            target_revision=model.target.revision,
            target_layer_ids=shape.target_layer_ids,
            needs_tokens=shape.needs_tokens,
            block_size=shape.block_size,
            block_tokens=model.target.block_tokens,
            num_context_tokens=drafter.num_context_tokens,
            deadline_s=drafter.deadline_ms / 1000,
            policy=model.policy,
            drafter=drafter.model_dump(),
            dtype=drafter.dtype,
            context_bytes=drafter.context_mib * MIB,
            calibrations=starting_calibrations(model, shape.block_size),
            nodes=model.target.nodes,
            step_cost=step_cost_file(model),
            step_cost_override=model.target.step_cost_override,
            tracing=tracing.model_dump() if tracing is not None else None,
        ).to_config(),
    }


def native_steering(model: ModelSpec) -> Steering | None:
    """What the model's adaptive verification starts with; None where there is none to steer.

    Raises ConfigError for profiles that cannot be used.
    """
    if model.placement != "native" or not model.native.adaptive_verification:
        return None
    calibrations = {}
    if model.drafter is not None and model.drafter.calibration is not None:
        block_size = speculative_config(model)["num_speculative_tokens"]
        calibrations = starting_calibrations(model, block_size)
    target = model.target
    return Steering(calibrations, step_cost_file(model), target.step_cost_override, target.nodes)


def step_cost_file(model: ModelSpec) -> str | None:
    """The absolute path of the target's step-cost profile; None without one.

    Raises ConfigError where there is no such file, or where it holds something else.
    """
    if model.target.step_cost is None:
        return None
    path = Path(model.target.step_cost).resolve()
    try:
        load_step_cost(path)
    except ProfileError as error:
        raise ConfigError(f"model {model.id}: target.step_cost: {error}") from None
    return str(path)


def target_source(model: ModelSpec) -> str:
    """What to load the target from on any node: a directory, or its hub id.

    Raises ConfigError when it is neither.
    """
    return checkpoint_source(
        model.target.source, f"model {model.id}: target.source", model.target.revision
    )


def target_directory(model: ModelSpec) -> str:
    """The target's checkpoint on this machine, fetched if need be. Raises ConfigError."""
    return str(
        checkpoint_directory(
            model.target.source, f"model {model.id}: target.source", model.target.revision
        )
    )
