"""Every request that passes vLLM's frontend, counted as it comes, speaks and goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from vllm.sampling_params import RequestOutputKind

from cluster.traffic_meter import InFlight, TrafficMeter
from deployments.engine.eligibility import service_class_of

Generate = Callable[..., AsyncGenerator[Any, None]]


def metered(generate: Generate, meter: TrafficMeter) -> Generate:
    """vLLM's `AsyncLLM.generate`, telling `meter` of every request."""

    async def counting(
        prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        request = meter.arrive(service_class_of(sampling_params), _prompt_tokens(prompt))
        is_complete = False
        try:
            async with aclosing(generate(prompt, sampling_params, *args, **kwargs)) as results:
                async for result in results:
                    num_tokens = _new_tokens(result, sampling_params, request)
                    meter.produce(request, num_tokens, _first_token_after_s(result))
                    is_complete = bool(result.finished) and not _aborted(result)
                    yield result
        finally:
            meter.end(request, is_complete=is_complete)

    return counting


def _new_tokens(result: Any, params: Any, request: InFlight) -> int:
    """Tokens since the last result, of all its outputs together."""
    num_tokens = sum(len(output.token_ids) for output in result.outputs)
    if params.output_kind == RequestOutputKind.DELTA:
        return num_tokens
    return max(0, num_tokens - request.output_tokens)


def _first_token_after_s(result: Any) -> float | None:
    """As vLLM noted it: a request that is not streamed speaks once, at its end."""
    return getattr(result.metrics, "first_token_latency", None) or None


def _prompt_tokens(prompt: Any) -> int:
    """As far as the prompt comes tokenised, as it does from the API."""
    ids = prompt.get("prompt_token_ids") if isinstance(prompt, dict) else None
    return len(ids if ids is not None else getattr(prompt, "prompt_token_ids", None) or ())


def _aborted(result: Any) -> bool:
    return any(output.finish_reason == "abort" for output in result.outputs)
