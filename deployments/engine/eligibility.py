"""Which requests may be drafted for without changing what they promise.

The others run in the same batches without speculation and are counted by reason.
"""

from __future__ import annotations

from typing import Any

from deployments.engine.engine_step import RequestTerms
from deployments.tracing.traceparent import TRACE_XARG

GREEDY_TEMPERATURE = 1e-5  # vLLM treats anything below as greedy
MIN_P_EPSILON = 1e-5  # and any min_p below as none
PROBE = "dspark_probe"  # of a request's extra_args: a sign of life, counted nowhere
SWITCH = "dspark"  # of a request's vllm_xargs: "off" runs it without speculation
SERVICE_CLASS = "dspark_class"  # of the same: the name of what was promised


def terms_of(request: Any) -> RequestTerms:
    """What drafting has to respect of a request, vLLM's `NewRequestData`."""
    params = request.sampling_params
    reason = ineligible_reason(request)
    if params is None or params.max_tokens is None:
        return RequestTerms(reason)
    sampled = params.temperature >= GREEDY_TEMPERATURE
    num_prompt = len(request.prompt_token_ids or ())
    return RequestTerms(
        reason,
        params.temperature if sampled else 0.0,
        num_prompt + params.max_tokens,
        num_prompt,
        service_class_of(params),
        str((params.extra_args or {}).get(TRACE_XARG, "")),
    )


def service_class_of(params: Any) -> str:
    """The service class that vLLM's `SamplingParams` carry; empty where there is none."""
    return str((params.extra_args or {}).get(SERVICE_CLASS, ""))


def ineligible_reason(request: Any) -> str | None:
    """Why a request is not drafted for, or None when it is.

    `request` is vLLM's `NewRequestData`. A seeded request at temperature > 0 promises
    its bytes, which depend on how many random numbers were drawn. A LoRA changes the
    features the drafter was trained on; inputs that are not token ids break the rule
    that a prefix's tokens name its context. `min_p` and `logit_bias` act on a request's
    last token alone. For penalties, bad words, log probabilities, thinking budgets and
    structured output the verification step is not proven to give what plain decoding
    gives.
    """
    params = request.sampling_params
    if params is None:
        return "pooling"
    if PROBE in (params.extra_args or {}):
        return PROBE
    if (params.extra_args or {}).get(SWITCH) == "off":
        return "requested"
    if request.lora_request is not None:
        return "lora"
    has_embeddings = getattr(request, "prompt_embeds", None) is not None
    if request.prompt_token_ids is None or request.mm_features or has_embeddings:
        return "not_token_ids"
    if params.seed is not None and params.temperature >= GREEDY_TEMPERATURE:
        return "seed"
    if params.presence_penalty or params.frequency_penalty or params.repetition_penalty != 1.0:
        return "penalties"
    if params.min_p > MIN_P_EPSILON:
        return "min_p"
    if params.logit_bias:
        return "logit_bias"
    if params.bad_words:
        return "bad_words"
    if params.logprobs is not None or params.prompt_logprobs is not None:
        return "logprobs"
    if params.thinking_token_budget is not None:
        return "thinking_budget"
    if params.structured_outputs is not None:
        return "structured_output"
    return None
