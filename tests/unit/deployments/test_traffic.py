"""What of vLLM's stream of outputs is offered for keeping."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams

from deployments.engine.traffic import observed


class Engine:
    """Streams three outputs of a request; notes whether its stream was closed."""

    def __init__(self, tokens: list[list[int]], finish: str = "stop") -> None:
        self._tokens, self._finish = tokens, finish
        self.closed = False

    async def generate(self, prompt: Any, params: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        try:
            for i, tokens in enumerate(self._tokens):
                last = i == len(self._tokens) - 1
                output = SimpleNamespace(
                    token_ids=tokens, finish_reason=self._finish if last else None
                )
                yield SimpleNamespace(outputs=[output], prompt_token_ids=[1, 2], finished=last)
        finally:
            self.closed = True


def run(engine: Engine, params: SamplingParams, take: int = 9, **kwargs: Any) -> list[Any]:
    offered: list[Any] = []

    async def consume() -> int:
        generate = observed(engine.generate, lambda p, o: offered.append((list(p), list(o))))
        stream, seen = generate("prompt", params, request_id="r", **kwargs), 0
        async for _ in stream:
            seen += 1
            if seen == take:
                break
        await stream.aclose()
        return seen

    assert asyncio.run(consume()) == min(take, 3)
    assert engine.closed
    return offered


DELTAS = [[3], [4, 5], [6]]


def test_a_finished_request_is_offered_once_and_whole():
    assert run(Engine(DELTAS), SamplingParams(output_kind=RequestOutputKind.DELTA)) == [
        ([1, 2], [3, 4, 5, 6])
    ]
    sofar = [[3], [3, 4, 5], [3, 4, 5, 6]]
    assert run(Engine(sofar), SamplingParams(output_kind=RequestOutputKind.CUMULATIVE)) == [
        ([1, 2], [3, 4, 5, 6])
    ]


@pytest.mark.parametrize(
    ("params", "kwargs"),
    [
        ({"n": 2}, {}),
        ({"extra_args": {"dspark_capture": "off"}}, {}),
        ({}, {"lora_request": object()}),
    ],
)
def test_what_is_not_the_targets_alone_or_opts_out_is_not(params, kwargs):
    asked = SamplingParams(output_kind=RequestOutputKind.DELTA, **params)
    assert run(Engine(DELTAS), asked, **kwargs) == []


def test_an_aborted_request_is_not_and_closes_the_engines_stream():
    params = SamplingParams(output_kind=RequestOutputKind.DELTA)
    assert run(Engine(DELTAS, finish="abort"), params) == []
    assert run(Engine(DELTAS), params, take=1) == []
