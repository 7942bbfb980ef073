"""What we hook into vLLM for, and whether this vLLM has it.

A capability is lost with any of its hooks. The tested version's hooks are checked when a
worker starts, an untested version's before that (`deployments.compatibility`).
"""

from __future__ import annotations

from collections.abc import Mapping

from cluster.hooks import Hook, missing
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

DRAFTING = "drafting in the model runner"
SAMPLING = "exact verification of sampled drafts"
FRONTEND = "text of tokens committed together"
METERING = "tokens told to their requests' seats"
PREFILL = "prompts within bounds"
CONTINUATION = "streams of lost targets that go on"
PROCESSORS = "workers on processors"
GPUS = "workers on GPUs"
NATIVE = "vLLM's own method: dspark"
ADAPTIVE = "adaptive verification"

_RUNNER = "vllm.v1.worker.gpu_model_runner"
_SAMPLER = "vllm.v1.sample.rejection_sampler"
_SPECULATIVE = "vllm.config.speculative"
_VERIFICATION = "vllm.v1.worker.gpu.spec_decode.adaptive_verification"
CAPABILITIES: Mapping[str, tuple[Hook, ...]] = {
    DRAFTING: (
        *(
            Hook(_RUNNER, f"GPUModelRunner.{name}", parameters)
            for name, parameters in RUNNER_HOOKS.items()
        ),
        Hook("vllm.distributed.parallel_state", "get_tp_group"),
        Hook("vllm.v1.worker.gpu_input_batch", "InputBatch.swap_states", ("self", "i1", "i2")),
    ),
    SAMPLING: (
        Hook(
            _SAMPLER,
            "rejection_sample",
            (
                "draft_token_ids",
                "num_draft_tokens",
                "max_spec_len",
                "cu_num_draft_tokens",
                "draft_probs",
                "target_logits",
                "bonus_token_ids",
                "sampling_metadata",
            ),
            passes_on=True,
        ),
        Hook(
            _SAMPLER,
            "expand_batch_to_tokens",
            ("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"),
        ),
        Hook("vllm.v1.sample.logits_processor", "BUILTIN_LOGITS_PROCESSORS"),
        Hook("vllm.v1.sample.logits_processor", "LogitsProcessors"),
    ),
    FRONTEND: (
        Hook(
            "vllm.v1.engine.detokenizer",
            "BaseIncrementalDetokenizer.update",
            ("self", "new_token_ids", "stop_terminated"),
        ),
        Hook("vllm.parser", "ParserManager.get_parser"),
        Hook(
            "vllm.parser.abstract_parser",
            "Parser.parse_delta",
            (
                "self",
                "delta_text",
                "delta_token_ids",
                "request",
                "prompt_token_ids",
                "finished",
            ),
        ),
        Hook(
            "vllm.sampling_params",
            "SamplingParams._validate_spec_decode",
            ("self", "speculative_config"),
        ),
    ),
    METERING: (
        Hook(
            "vllm.v1.engine.output_processor",
            "OutputProcessor.add_request",
            ("self", "request", "prompt", "parent_req", "request_index", "queue"),
        ),
        Hook(
            "vllm.v1.engine.output_processor",
            "OutputProcessor.process_outputs",
            ("self", "engine_core_outputs", "engine_core_timestamp", "iteration_stats"),
        ),
    ),
    PREFILL: (
        Hook("vllm.v1.core.sched.scheduler", "Scheduler.schedule", ("self", "throttle_prefills")),
        Hook("vllm.v1.core.sched.async_scheduler", "AsyncScheduler"),
    ),
    CONTINUATION: (
        Hook("vllm.v1.core.sched.scheduler", "Scheduler.add_request", ("self", "request")),
        Hook("vllm.v1.core.sched.async_scheduler", "AsyncScheduler"),
        Hook("vllm.v1.request", "Request.append_output_token_ids", ("self", "token_ids")),
        Hook("vllm.v1.request", "Request.take_prefill_stats", ("self",)),
        Hook("vllm.v1.worker.gpu_input_batch", "InputBatch.add_request", ("self", "request")),
        Hook("vllm.v1.engine.output_processor", "RequestState.from_new_request"),
        Hook(
            "vllm.v1.engine.detokenizer",
            "IncrementalDetokenizer.from_new_request",
            ("tokenizer", "request"),
        ),
        Hook("vllm.v1.engine.core_client", "AsyncMPClient.get_output_async", ("self",)),
    ),
    PROCESSORS: (
        Hook("vllm.v1.worker.cpu_worker", "CPUModelRunner"),
        Hook("vllm.v1.worker.cpu_worker", "CPUWorker.init_device", ("self",)),
        Hook("vllm.v1.worker.cpu_worker", "CPUWorker.compile_or_warm_up_model", ("self",)),
        Hook(
            "vllm.lora.ops.torch_ops.lora_ops",
            "bgmv_shrink",
            ("inputs", "lora_b_weights", "output_tensor", "lora_indices_tensor", "scaling"),
        ),
    ),
    GPUS: (
        Hook(_RUNNER, "GPUModelRunner"),
        Hook("vllm.v1.worker.gpu_worker", "Worker.init_device", ("self",)),
        Hook("vllm.v1.worker.gpu_worker", "Worker.compile_or_warm_up_model", ("self",)),
    ),
    NATIVE: (
        Hook(_SPECULATIVE, "SpeculativeConfig.use_dspark", ("self",)),
        Hook(_SPECULATIVE, "SpeculativeConfig.draft_sample_method"),
        Hook(_SPECULATIVE, "SpeculativeConfig.revision"),
    ),
    ADAPTIVE: (
        Hook(_SPECULATIVE, "SpeculativeConfig.enable_adaptive_verification"),
        Hook(_VERIFICATION, "AdaptiveVerificationManager.set_cost_curves"),
        Hook(
            _VERIFICATION,
            "AdaptiveVerificationManager.record_confidences",
            ("self", "confidence_probs", "input_batch"),
        ),
        Hook(
            _VERIFICATION,
            "AdaptiveVerificationManager.get_num_tokens",
            ("self", "num_tokens_per_req", "draft_tokens"),
        ),
    ),
}
_EVERYWHERE = (FRONTEND, METERING, CONTINUATION)
_DRAFTED_BY_US = (*_EVERYWHERE, DRAFTING, SAMPLING)
NEEDED: Mapping[str, tuple[str, ...]] = {
    "off": _EVERYWHERE,
    "native": (*_EVERYWHERE, NATIVE),
    "colocated": _DRAFTED_BY_US,
    "split": _DRAFTED_BY_US,
}
"""By placement, what has to be there whatever the machine; workers and what is optional are
asked for where they start."""


def probe_engine() -> dict[str, list[str]]:
    """Per capability what this vLLM lacks of it; an empty list where it has all."""
    return {name: missing(hooks) for name, hooks in CAPABILITIES.items()}


def check_engine_hooks(workers: str) -> None:
    """Raise CompatibilityError when this vLLM cannot be hooked as our drafting worker hooks it.

    `workers` is the capability that the workers build on: `PROCESSORS` or `GPUS`.
    """
    for capability in (*_DRAFTED_BY_US, workers):
        lacking = missing(CAPABILITIES[capability])
        if lacking:
            raise CompatibilityError(
                f"this vLLM is not fit for {capability}: {'; '.join(lacking)}. "
                "Install the vLLM version pinned in pyproject.toml."
            )
