"""A stream taken up from another target: what it said is said again, then it goes on.

vLLM's serving code sees one answer from its first token on, so its parsers, its usage and its
log probabilities' offsets come out as if the request had been here all along. What was said
comes as one result per request before all others: chunks of their own, that the ingress
leaves out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from copy import copy
from types import SimpleNamespace
from typing import Any

from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from deployments.engine.said import SAID, text_said
from deployments.resumption import RESUME, Resumption, SaidChoice

Generate = Callable[..., AsyncGenerator[Any, None]]


def resuming(generate: Generate, tokenizer: Any, unable: str | None = None) -> Generate:
    """vLLM's `AsyncLLM.generate`, which takes up requests that carry a `Resumption`.

    `unable`: why this engine cannot; such requests are then refused with ValueError.
    """

    def dispatch(
        prompt: Any, sampling_params: Any, request_id: str, **kwargs: Any
    ) -> AsyncGenerator[Any, None]:
        extra = getattr(sampling_params, "extra_args", None)
        if not extra or RESUME not in extra:
            return generate(prompt, sampling_params, request_id, **kwargs)
        if unable is not None:
            raise ValueError(unable)
        own = copy(sampling_params)
        own.extra_args = {name: value for name, value in extra.items() if name != RESUME}
        resumed = _Resumed(extra[RESUME], own, request_id, tokenizer)
        return resumed.results(generate, prompt, kwargs)

    return dispatch


class _Resumed:
    """One request that goes on here."""

    def __init__(self, said: Resumption, params: Any, request_id: str, tokenizer: Any) -> None:
        self._said = said
        self._params = params
        self._request_id = request_id
        self._tokenizer = tokenizer

    async def results(
        self, generate: Generate, prompt: Any, kwargs: dict[str, Any]
    ) -> AsyncGenerator[Any, None]:
        """What was said, then each unfinished choice's further results as they come.

        Raises ValueError for what cannot be taken up.
        """
        if not isinstance(prompt, dict) or prompt.get("type") != "token":
            raise ValueError("a prompt that is more than token ids cannot be taken up")
        if self._params.structured_outputs is not None and kwargs.get("reasoning_ended") is False:
            raise ValueError("structured output behind reasoning cannot be taken up")
        choices = self._said.choices
        open_ = [i for i, choice in enumerate(choices) if choice.finish_reason is None]
        yield self._again(finished=not open_)
        prompt = {**prompt, "prompt_token_ids": list(self._said.prompt_token_ids)}
        streams = [
            generate(prompt, self._params_of(i), f"{self._request_id}-{i}", **kwargs) for i in open_
        ]
        async with aclosing(_merged(streams)) as results:
            async for k, result in results:
                (output,) = result.outputs
                output.index = open_[k]
                yield result

    def _params_of(self, index: int) -> Any:
        """The parameters of choice `index` on its own, as vLLM gives them to it."""
        params = copy(self._params)
        if params.n > 1 and params.seed is not None:
            params.seed += index
        params.n = 1
        said = list(self._said.choices[index].token_ids)
        params.extra_args = {**params.extra_args, SAID: said} if said else params.extra_args
        return params

    def _again(self, *, finished: bool) -> RequestOutput:
        """All that was said, as one result."""
        return RequestOutput(
            self._request_id,
            None,
            list(self._said.prompt_token_ids),
            None,
            [self._choice_again(i, choice) for i, choice in enumerate(self._said.choices)],
            finished,
            num_cached_tokens=0,
        )

    def _choice_again(self, index: int, choice: SaidChoice) -> CompletionOutput:
        params, token_ids = self._params, list(choice.token_ids)
        request = SimpleNamespace(
            request_id=self._request_id,
            sampling_params=params,
            prompt_token_ids=list(self._said.prompt_token_ids),
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self._tokenizer, request)
        reason = choice.finish_reason
        return CompletionOutput(
            index,
            text_said(detokenizer, token_ids),
            token_ids,
            None,
            # Nobody reads them: the client has the true ones.
            None if params.logprobs is None else [{t: Logprob(0.0, 1, "")} for t in token_ids],
            finish_reason="stop" if reason == "tool_calls" else reason,
            stop_reason=choice.stop_reason,
        )


async def _merged(
    streams: list[AsyncGenerator[Any, None]],
) -> AsyncGenerator[tuple[int, Any], None]:
    """The items of all streams as they come, each with its stream's number."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as items:
            async for item in items:
                yield 0, item
        return
    waiting = {asyncio.ensure_future(anext(stream)): k for k, stream in enumerate(streams)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                k = waiting.pop(task)
                try:
                    item = task.result()
                except StopAsyncIteration:
                    continue
                yield k, item
                waiting[asyncio.ensure_future(anext(streams[k]))] = k
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        for stream in streams:
            await stream.aclose()
