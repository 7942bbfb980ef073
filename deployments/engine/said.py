"""Requests that have said something already: what vLLM's parts have to be told of it.

Such a request is the original one, with its own prompt and parameters, and the tokens it said
on another target. Scheduler, worker and frontend each get those tokens as output, as they
would stand after a preemption. So limits, penalties, stop strings, grammars and a seed's
random numbers go on where they were, and no part has to be taught the difference.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import torch
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from deployments.ending import end_with_parent
from deployments.engine.eligibility import GREEDY_TEMPERATURE

SAID = "dspark_said"  # of a request's extra_args: its output so far, as token ids


def said_of(params: Any) -> list[int]:
    """What a request with these sampling parameters has said before; empty for most."""
    extra = getattr(params, "extra_args", None)
    said: list[int] = extra.get(SAID, []) if extra else []
    return said


class Resuming:
    """Mixin before a vLLM scheduler: takes a request up where it stands.

    The scheduler is what of ours lives in the engine's own process: it also sees to it that
    the process ends with its replica.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        end_with_parent()

    def add_request(self, request: Any) -> None:
        said = said_of(request.sampling_params)
        if said:
            request.append_output_token_ids(list(said))
            # As after a preemption: vLLM counts prefills of prompts alone, and asserts that no
            # more than the prompt is in its prefix cache.
            request.take_prefill_stats()
            if request.structured_output_request is not None:
                _advance_grammar(request, said)
        super().add_request(request)  # type: ignore[misc]


class ResumingScheduler(Resuming, Scheduler):  # type: ignore[misc]
    """vLLM's scheduler, with that."""


class ResumingAsyncScheduler(Resuming, AsyncScheduler):  # type: ignore[misc]
    """vLLM's scheduler for engines that schedule ahead, with that."""


def _advance_grammar(request: Any, said: list[int]) -> None:
    """Let the grammar, which may still be compiling, know what was said."""
    asked = request.structured_output_request

    def advanced(grammar: Any) -> Any:
        if not grammar.accept_tokens(request.request_id, list(said)):
            raise ValueError("what was said does not fit the request's grammar")
        return grammar

    compiling, grammar = asked._grammar, Future[Any]()

    def settle(done: Future[Any]) -> None:
        try:
            grammar.set_result(advanced(done.result()))
        except Exception as error:
            grammar.set_exception(error)

    if isinstance(compiling, Future):
        compiling.add_done_callback(settle)
        asked.grammar = grammar
    else:
        asked.grammar = advanced(compiling)


def take_up_in_worker(input_batch_class: Any) -> None:
    """Let vLLM's `InputBatch` (V1) give a request that joins it what it said before.

    Doing it twice changes nothing. The V2 runner takes it from the scheduler by itself.
    """
    original = input_batch_class.add_request
    if hasattr(original, "without_said"):
        return

    def add_request(self: Any, request: Any) -> Any:
        said = said_of(request.sampling_params)
        if said and not request.output_token_ids:
            request.output_token_ids.extend(said)
            params = request.sampling_params
            if request.generator is not None and params.temperature >= GREEDY_TEMPERATURE:
                draw_again(request.generator, len(said), self.vocab_size)
        return original(self, request)

    add_request.without_said = original  # type: ignore[attr-defined]
    input_batch_class.add_request = add_request


def draw_again(generator: torch.Generator, num_tokens: int, vocab_size: int) -> None:
    """Bring a request's generator to where it stands after sampling `num_tokens` tokens.

    vLLM draws one exponential number for every token id and every token it samples.
    """
    noise = torch.empty(vocab_size, dtype=torch.float32, device=generator.device)
    for _ in range(num_tokens):
        noise.exponential_(generator=generator)


def take_up_in_frontend(request_state_class: Any) -> None:
    """Let vLLM's `RequestState` stand where a request has said what it said before.

    Its text is released; what comes out next is new. Doing it twice changes nothing.
    """
    original = request_state_class.from_new_request.__func__
    if hasattr(original, "without_said"):
        return

    def from_new_request(cls: Any, *args: Any, **kwargs: Any) -> Any:
        state = original(cls, *args, **kwargs)
        request = kwargs["request"]
        said = said_of(request.sampling_params)
        if said:
            text_said(state.detokenizer, said)
            state.sent_tokens_offset = len(said)
        return state

    from_new_request.without_said = original  # type: ignore[attr-defined]
    request_state_class.from_new_request = classmethod(from_new_request)


def text_said(detokenizer: Any, said: list[int]) -> str:
    """Feed a fresh detokeniser what was said; the text that a client has of it.

    Beside stop strings that is less than all: the last characters may begin one.
    """
    detokenizer.update(list(said), False)
    text: str = detokenizer.get_next_output_text(finished=False, delta=True)
    return text
