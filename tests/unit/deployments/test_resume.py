"""What an engine takes up of a lost target's stream, and what it refuses with the reason."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from deployments.continuation import why_not
from deployments.engine.resume import resuming
from deployments.resumption import RESUME, Resumption, SaidChoice

SAID = {RESUME: Resumption((1, 2, 3), (SaidChoice((4, 5), "stop"),))}
TEXT = {"type": "token", "prompt_token_ids": [1, 2, 3]}
PICTURE = {"type": "multimodal", "prompt_token_ids": [1, 2, 3], "mm_kwargs": {}}
GRAMMAR = StructuredOutputsParams(regex="[a-z]+")


class Engine:
    """Notes what it is asked to generate."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def generate(self, prompt: Any, params: Any, request_id: str, **kwargs: Any) -> Any:
        self.asked.append(prompt)
        yield "generated"


def results(prompt: Any, params: SamplingParams, unable: str | None = None, **kwargs: Any) -> Any:
    engine = Engine()

    async def run() -> list[Any]:
        generate = resuming(engine.generate, SimpleNamespace(), unable)
        return [one async for one in generate(prompt, params, "r", **kwargs)]

    return asyncio.run(run()), engine.asked


def test_a_request_that_takes_nothing_up_is_the_engines_own():
    assert results(PICTURE, SamplingParams()) == (["generated"], [PICTURE])


@pytest.mark.parametrize(
    ("prompt", "params", "kwargs", "why"),
    [
        pytest.param(PICTURE, {}, {}, "more than token ids", id="images"),
        pytest.param("Once", {}, {}, "more than token ids", id="a prompt not tokenised yet"),
        pytest.param(
            TEXT,
            {"structured_outputs": GRAMMAR},
            {"reasoning_ended": False},
            "structured output behind reasoning",
            id="structured output behind reasoning",
        ),
    ],
)
def test_what_cannot_be_taken_up_is_refused_with_the_reason(prompt, params, kwargs, why):
    with pytest.raises(ValueError, match=why):
        results(prompt, SamplingParams(extra_args=SAID, **params), **kwargs)


def test_an_engine_that_cannot_take_streams_up_says_why():
    with pytest.raises(ValueError, match="the engine's scheduler_cls"):
        results(TEXT, SamplingParams(extra_args=SAID), "the engine's scheduler_cls is another")


@pytest.mark.parametrize(
    ("request_class", "own", "feature", "why"),
    [
        (CompletionRequest, {"prompt": "Once"}, {"use_beam_search": True}, "beam search"),
        (ChatCompletionRequest, {"messages": []}, {"use_beam_search": True}, "beam search"),
        (
            ChatCompletionRequest,
            {"messages": []},
            {"thinking_token_budget": 64},
            "thinking_token_budget",
        ),
        (
            ChatCompletionRequest,
            {"messages": []},
            {"include_reasoning": False},
            "include_reasoning",
        ),
        (CompletionRequest, {"prompt": "Once"}, {"echo": True}, "echo"),
        (CompletionRequest, {"prompt": ["One", "Two"]}, {}, "several prompts"),
    ],
)
def test_vllms_own_requests_are_read_for_what_cannot_go_on(request_class, own, feature, why):
    assert why in (why_not(request_class(model="m", **own, **feature)) or "")
    assert why_not(request_class(model="m", **{**own, "prompt": "Once"})) is None
