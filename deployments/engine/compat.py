"""Check, before a worker starts, that this vLLM has the hooks we override."""

from __future__ import annotations

import inspect
from typing import Any

from cluster.versions import CompatibilityError

# Method -> the parameters we are called with, in order.
RUNNER_HOOKS: dict[str, tuple[str, ...]] = {
    "__init__": ("self", "vllm_config", "device"),
    "execute_model": ("self", "scheduler_output", "intermediate_tensors"),
    "sample_tokens": ("self", "grammar_output"),
    "_dummy_run": (
        "self",
        "num_tokens",
        "cudagraph_runtime_mode",
        "force_attention",
        "uniform_decode",
        "allow_microbatching",
        "skip_eplb",
        "is_profile",
        "create_mixed_batch",
        "remove_lora",
        "is_graph_capturing",
        "num_active_loras",
        "profile_seq_lens",
        "randomize_inputs",
    ),
    "_update_states": ("self", "scheduler_output"),
    "_input_fits_in_drafter": ("self", "common_attn_metadata"),
    "_get_spec_decode_draft_probs": ("self", "spec_decode_metadata"),
    "_get_eagle3_aux_layers_from_config": ("self",),
    "propose_draft_token_ids": (
        "self",
        "scheduler_output",
        "sampled_token_ids",
        "sampling_metadata",
        "hidden_states",
        "sample_hidden_states",
        "aux_hidden_states",
        "spec_decode_metadata",
        "common_attn_metadata",
        "slot_mappings",
    ),
}


def check_signatures(cls: Any, hooks: dict[str, tuple[str, ...]]) -> None:
    """Raise CompatibilityError naming the first hook of `cls` that is not as expected."""
    for name, needed in hooks.items():
        method = getattr(cls, name, None)
        if method is None:
            raise CompatibilityError(
                f"{cls.__module__}.{cls.__name__} has no {name}(); needed: {', '.join(needed)}. "
                "Install the vLLM version pinned in pyproject.toml."
            )
        found = tuple(inspect.signature(method).parameters)
        if found != needed:
            raise CompatibilityError(
                f"{cls.__module__}.{cls.__name__}.{name} takes ({', '.join(found)}), needed "
                f"({', '.join(needed)}). Install the vLLM version pinned in pyproject.toml."
            )


def check_engine_hooks() -> None:
    """Raise CompatibilityError when this vLLM cannot be hooked as we hook it."""
    import vllm.v1.sample.rejection_sampler as rejection_sampler
    import vllm.v1.worker.cpu_worker as cpu_worker
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    check_signatures(GPUModelRunner, RUNNER_HOOKS)
    for module, name in (
        (rejection_sampler, "expand_batch_to_tokens"),
        (rejection_sampler, "rejection_sample"),
        (cpu_worker, "CPUModelRunner"),
    ):
        if not hasattr(module, name):
            raise CompatibilityError(
                f"{module.__name__} has no {name}, which we replace. "
                "Install the vLLM version pinned in pyproject.toml."
            )
