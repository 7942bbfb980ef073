"""Streams whose target is lost, feature by feature: what another target makes of them.

Each row's request is streamed once undisturbed and then, for every place a target can die at,
through the ingress's failover with the first target's stream cut there. The real engine
answers both; that the targets are one and the same process is all that is not as served
(`test_lost_targets.py` kills real ones).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError
from ray.serve.llm import LLMConfig

from deployments.continuation import Delivered
from deployments.draft_model import check_drafter
from deployments.engine.vllm_engine import TargetEngine
from deployments.engine_args import engine_kwargs, target_directory
from deployments.failover import FailoverCounts, streamed
from tests.integration.adapters import write_adapter
from tests.integration.demo import DEMO_TARGET
from tests.integration.engines import settings
from tests.integration.structures import PERSON, TOOL

EXACT = "exact"
CUTS = (1, 3, 9)  # events that come before the target is lost; beyond the last: at its end
REPEATS = {"max_pattern_size": 4, "min_count": 3}
CHAT = [{"role": "user", "content": "Write a short story about a dog and the sea."}]


@dataclass(frozen=True)
class Row:
    """A feature and what becomes of its begun streams: `EXACT`, or the error they end with."""

    feature: str
    outcome: str
    request: dict[str, Any] = field(default_factory=dict)
    path: str = "chat"


def completion(feature: str, outcome: str, **request: Any) -> Row:
    return Row(feature, outcome, {"prompt": "Once upon a time"} | request, "completions")


SAMPLED = {"temperature": 0.9, "seed": 7}
ROWS = [
    Row("greedy", EXACT),
    Row("usage in every chunk", EXACT, {"stream_options": {"continuous_usage_stats": True}}),
    Row("token ids", EXACT, {"return_token_ids": True}),
    Row("seed", EXACT, SAMPLED),
    Row("seed with top_p and top_k", EXACT, SAMPLED | {"top_p": 0.8, "top_k": 20}),
    Row("min_p", EXACT, SAMPLED | {"min_p": 0.1}),
    Row("presence penalty", EXACT, {"presence_penalty": 1.5}),
    Row("frequency penalty", EXACT, {"frequency_penalty": 1.5}),
    Row("repetition penalty", EXACT, {"repetition_penalty": 1.3}),
    Row("bad words", EXACT, {"bad_words": ["the", " the sea", " and"]}),
    Row("logit bias", EXACT, {"logit_bias": {"262": -100}}),
    Row("allowed token ids", EXACT, {"allowed_token_ids": list(range(100, 2000))}),
    Row("min_tokens", EXACT, {"min_tokens": 30, "stop": ["a"]}),
    Row("max_tokens", EXACT, {"max_tokens": 11, "ignore_eos": True}),
    Row("stop strings", EXACT, {"stop": [" was very", "ZZZZ"]}),
    Row("stop string kept", EXACT, {"stop": [" was"], "include_stop_str_in_output": True}),
    Row("stop token ids", EXACT, {"stop_token_ids": [13, 15]}),
    Row(
        "repetition detection",
        EXACT,
        {"repetition_detection": {"max_pattern_size": 4, "min_count": 3}},
    ),
    Row("log probabilities", EXACT, {"logprobs": True, "top_logprobs": 3}),
    Row("n above 1", EXACT, SAMPLED | {"n": 3, "stop": ["."]}),
    Row("JSON schema", EXACT, {"structured_outputs": {"json": PERSON}}),
    Row("regex", EXACT, {"structured_outputs": {"regex": r"[A-Z][a-z]{9,12} \d{9,14}"}}),
    Row("tool call, required", EXACT, {"tools": [TOOL], "tool_choice": "required"}),
    Row(
        "tool call, named",
        EXACT,
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "add"}}},
    ),
    Row("tool call, auto", EXACT, {"tools": [TOOL], "tool_choice": "auto"}),
    Row("LoRA", EXACT, {"model": "demo:odd"}),
    Row("speculation off by request", EXACT, {"vllm_xargs": {"dspark": "off"}}),
    completion("completion", EXACT),
    completion("completion with log probabilities", EXACT, logprobs=2),
    completion("completion of token ids", EXACT, prompt=[410, 1033, 99, 2000]),
    completion("several prompts", "several prompts in one request", prompt=["One", "Two"]),
    completion("echo", "echo", echo=True),
    Row("hidden reasoning", "include_reasoning off", {"include_reasoning": False}),
]


def body_of(row: Row) -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion.protocol import CompletionRequest

    options = row.request.get("stream_options", {})
    request = {
        "model": "demo",
        "temperature": 0,
        "max_tokens": 60,
        "stream": True,
        "request_id": row.feature.replace(" ", "-"),
    }
    request |= row.request | {"stream_options": {"include_usage": True} | options}
    if row.path == "completions":
        return CompletionRequest(**request)
    return ChatCompletionRequest(**{"messages": CHAT} | request)


@dataclass
class Answer:
    """What a client has put together at the end."""

    choices: dict[int, dict[str, Any]] = field(default_factory=dict)
    usage: dict[str, Any] | None = None
    names: set[tuple[str, int]] = field(default_factory=set)
    error: str | None = None
    num_events: int = 0
    num_lost: int = 0  # targets; none where results came together and the stream was short

    def add(self, event: str) -> None:
        self.num_events += 1
        if event == "data: [DONE]\n\n":
            return
        chunk = json.loads(event.removeprefix("data: "))
        if "error" in chunk:
            self.error = chunk["error"]["message"]
            return
        self.names.add((chunk["id"], chunk["created"]))
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk["choices"]:
            self._add_choice(choice)

    def _add_choice(self, choice: dict[str, Any]) -> None:
        said = self.choices.setdefault(choice["index"], {"roles": 0, "text": "", "calls": ""})
        delta = choice.get("delta", {})
        said["roles"] += "role" in delta
        said["text"] += choice.get("text") or delta.get("content") or ""
        said["calls"] += "".join(
            f"<{c['function'].get('name') or ''}>{c['function'].get('arguments') or ''}"
            for c in delta.get("tool_calls") or []
        )
        for name in ("token_ids", "prompt_token_ids"):
            if choice.get(name):
                said[name] = said.get(name, []) + choice[name]
        if choice.get("logprobs"):
            for name, values in choice["logprobs"].items():
                said[name] = said.get(name, []) + (values or [])
        for name in ("finish_reason", "stop_reason"):
            said[name] = choice.get(name) if choice.get(name) is not None else said.get(name)


async def run(engine: Any, row: Row, cut: int | None) -> Answer:
    """The answer to a row's request whose first target is lost after `cut` events."""
    num_targets = 0

    async def ask(body: Any) -> AsyncGenerator[Any, None]:
        nonlocal num_targets
        num_targets += 1
        left = cut if num_targets == 1 else None
        async with aclosing(getattr(engine, row.path)(body)) as events:
            async for event in events:
                yield [event]
                left = left - 1 if left is not None else None
                if left == 0:
                    raise ActorDiedError

    answer, counts = Answer(), FailoverCounts()
    async with aclosing(streamed(ask, Delivered(body_of(row)), counts)) as events:
        async for event in events:
            assert isinstance(event, str), event
            answer.add(event)
    answer.num_lost = counts.continued + counts.restarted + counts.given_up
    return answer


async def run_all(engine: Any) -> dict[str, dict[int | None, Answer]]:
    """Per row the undisturbed answer (None) and those with a cut, eight requests at a time."""
    seats = asyncio.Semaphore(8)

    async def one(row: Row, cut: int | None) -> Answer:
        async with seats:
            return await run(engine, row, cut)

    undisturbed = await asyncio.gather(*(one(row, None) for row in ROWS))
    answers: dict[str, dict[int | None, Answer]] = {
        row.feature: {None: answer} for row, answer in zip(ROWS, undisturbed, strict=True)
    }
    cut_rows = [
        (row, cut)
        for row in ROWS
        for last in [answers[row.feature][None].num_events]
        for cut in sorted({min(cut, last - 1) for cut in (*CUTS, last - 1)} - {0})
    ]
    found = await asyncio.gather(*(one(row, cut) for row, cut in cut_rows))
    for (row, cut), answer in zip(cut_rows, found, strict=True):
        answers[row.feature][cut] = answer
    return answers


@pytest.fixture(scope="module", params=[pytest.param("off", marks=pytest.mark.long), "colocated"])
def answers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[int | None, Answer]]:
    adapter = write_adapter(tmp_path_factory.mktemp("continued") / "adapter")
    tools = {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
    target = DEMO_TARGET | {"loras": {"odd": str(adapter)}, "engine_kwargs": tools}
    model = settings(placement=request.param, target=target)
    shape = None if request.param == "off" else check_drafter(model)
    config = LLMConfig(
        model_loading_config={"model_id": "demo", "model_source": target_directory(model)},
        accelerator_config={"kind": "cpu"},
        engine_kwargs=engine_kwargs(model, shape),
    )

    async def all_answers() -> dict[str, dict[int | None, Answer]]:
        engine = TargetEngine(config)
        await engine.start()
        try:
            return await run_all(engine)
        finally:
            engine._engine_client.shutdown()

    try:
        return asyncio.run(all_answers())
    finally:
        ray.shutdown()  # which the engine began in this process


def same(one: Any, other: Any) -> bool:
    """Equal, but for log probabilities: tokens read at once are computed by another kernel."""
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) < 1e-4
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@pytest.mark.parametrize("row", [r for r in ROWS if r.outcome == EXACT], ids=lambda r: r.feature)
def test_a_lost_targets_stream_goes_on_to_the_token(row, answers):
    undisturbed, *others = answers[row.feature].values()
    assert undisturbed.num_lost == 0
    # On a busy machine results come together, and a short stream may end before its cut.
    assert sum(answer.num_lost for answer in others) > 0
    for answer in others:
        assert answer.error is None
        assert same(answer.choices, undisturbed.choices)
        assert answer.usage == undisturbed.usage
        assert len(answer.names) == 1


@pytest.mark.parametrize("row", [r for r in ROWS if r.outcome != EXACT], ids=lambda r: r.feature)
def test_what_cannot_go_on_ends_with_an_error_that_says_why(row, answers):
    found = answers[row.feature]
    assert found[None].error is None
    begun = [answer for cut, answer in found.items() if (cut or 0) > 1 and answer.num_lost]
    assert begun
    for answer in begun:
        assert answer.error is not None
        assert row.outcome in answer.error
