"""Token ids of finished requests, taken from vLLM's stream of outputs as it passes by."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Any

from vllm.sampling_params import RequestOutputKind, SamplingParams

Generate = Callable[..., AsyncGenerator[Any, None]]
Offer = Callable[[Sequence[int], Sequence[int]], None]

OPT_OUT = "dspark_capture"  # in a request's `vllm_xargs`, with the value "off"


def observed(generate: Generate, offer: Offer) -> Generate:
    """vLLM's `AsyncLLM.generate`, offering every request that ends.

    Left out are requests that opt out, that were aborted, and those whose text is not the
    target's alone or not one: with LoRA, with n above 1, with inputs that are not token ids.
    """

    async def watching(
        prompt: Any, sampling_params: Any, *args: Any, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        watch = _may_be_kept(sampling_params) and kwargs.get("lora_request") is None
        tokens: list[int] = []
        async with aclosing(generate(prompt, sampling_params, *args, **kwargs)) as results:
            async for result in results:
                if watch:
                    _take(result, sampling_params, tokens)
                    if result.finished and result.prompt_token_ids and not _aborted(result):
                        offer(result.prompt_token_ids, tokens)
                yield result

    return watching


def _may_be_kept(params: Any) -> bool:
    if not isinstance(params, SamplingParams) or params.n != 1:
        return False
    return (params.extra_args or {}).get(OPT_OUT) != "off"


def _take(result: Any, params: SamplingParams, tokens: list[int]) -> None:
    """Add a result's tokens: those since the last one, or all so far."""
    (output,) = result.outputs
    if params.output_kind != RequestOutputKind.DELTA:
        tokens.clear()
    tokens.extend(output.token_ids)


def _aborted(result: Any) -> bool:
    return bool(result.outputs[0].finish_reason == "abort")
