"""Tool calls and reasoning, streamed: however a token stream is cut, the message is the same.

Token streams go through vLLM's own chat endpoint and parsers in chunks of 1 to 8 tokens, and the
client's message is held against what chunks of one token give, as without speculation: content,
reasoning, calls, finish reason and usage.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from deployments.engine.streaming import TokenByToken, feed_parsers_token_by_token
from tests.integration.demo import DEMO_TARGET

pytestmark = pytest.mark.light

DSML = "\N{FULLWIDTH VERTICAL LINE}DSML\N{FULLWIDTH VERTICAL LINE}"
MARKERS = [
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>"),
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>", '<|"|>', DSML),
]
WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris", "days": 3}}'
NESTED = (
    '{"name": "book", "arguments": {"who": {"name": "Zoë \\"Z\\" Müller", "age": 41}, '
    '"seats": [1, 2, {"row": "<b>"}], "note": "a </think> in a string"}}'
)
CONVERSATIONS = {
    "only content": "The answer is 4, as 2 + 2 = 4.",
    "reasoning, then content": "<think>Two and two, that is\n\nfour.</think>The answer is 4.",
    "a call": f"<tool_call>\n{WEATHER}\n</tool_call>",
    "content, then a call": f"I will look.\n<tool_call>\n{WEATHER}\n</tool_call>",
    "reasoning, then a call": f"<think>Weather?</think>\n<tool_call>\n{WEATHER}\n</tool_call>",
    "end of reasoning and call touch": f"<think>Go</think><tool_call>{WEATHER}</tool_call>",
    "two calls": f"<tool_call>\n{WEATHER}\n</tool_call>\n<tool_call>\n{NESTED}\n</tool_call>",
    "nested arguments": f"<think>.</think><tool_call>\n{NESTED}\n</tool_call>",
    "cut off in the arguments": f"<think>Hm</think><tool_call>\n{NESTED[:80]}",
    "cut off in the name": '<think>Hm</think><tool_call>\n{"name": "get_we',
    "cut off in the reasoning": "<think>I wonder whether",
    "markup that is no call": "<think>x</think>Use <tool> and <call> & {braces}.",
    "emoji in many tokens": "<think>🤔🧮</think>👩‍👩‍👧 is a family. 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
}
PARSERS = [
    ("hermes", "qwen3"),
    ("hermes", None),
    (None, "qwen3"),
    ("hermes", "deepseek_r1"),
    ("qwen3_coder", "qwen3"),
    ("llama3_json", None),
    ("pythonic", None),
]


@dataclass
class Message:
    """What a client has put together at the end."""

    content: str = ""
    reasoning: str = ""
    calls: dict[int, list[str]] = field(default_factory=dict)
    finish_reason: str | None = None
    usage: dict[str, Any] | None = None

    def add(self, event: str) -> None:
        """A server-sent event of the stream."""
        data = event.removeprefix("data: ").strip()
        if data == "[DONE]":
            return
        chunk = json.loads(data)
        assert "error" not in chunk, chunk
        self.usage = chunk.get("usage", self.usage)
        for choice in chunk["choices"]:
            delta = choice["delta"]
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            self.content += delta.get("content") or ""
            self.reasoning += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                name_and_arguments = self.calls.setdefault(call["index"], ["", ""])
                function = call.get("function") or {}
                name_and_arguments[0] += function.get("name") or ""
                name_and_arguments[1] += function.get("arguments") or ""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    loaded = AutoTokenizer.from_pretrained(DEMO_TARGET["source"])
    loaded.add_tokens(MARKERS, special_tokens=False)
    return loaded


def chat_serving(tool: str | None, reasoning: str | None) -> Any:
    """vLLM's chat endpoint with these parsers, as we serve it, before no engine."""
    from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
    from vllm.parser import ParserManager

    feed_parsers_token_by_token(ParserManager)
    model_config = SimpleNamespace(
        model="m",
        hf_config=SimpleNamespace(model_type="qwen3"),
        generation_config="auto",
        get_diff_sampling_param=dict,
    )
    engine: Any = SimpleNamespace(model_config=model_config, renderer=None, input_processor=None)
    nothing: Any = None
    return OpenAIServingChat(
        engine,
        nothing,
        "assistant",
        online_renderer=nothing,
        request_logger=None,
        chat_template=None,
        chat_template_content_format="auto",
        reasoning_parser=reasoning or "",
        enable_auto_tools=tool is not None,
        tool_parser=tool,
    )


Choice = str | dict[str, Any]


@dataclass
class Recorded:
    """A finished answer: its tokens, why it ended, and which tool choice was asked for."""

    token_ids: list[int]
    ended: str
    choice: Choice = "auto"
    stop: list[str] | None = None  # strings that never come

    def request(self) -> Any:
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        fields = {"city": {"type": "string"}, "days": {"type": "integer"}}
        weather = {"type": "object", "properties": fields}
        tools = [
            {"type": "function", "function": {"name": name, "parameters": parameters}}
            for name, parameters in (("get_weather", weather), ("book", {"type": "object"}))
        ]
        return ChatCompletionRequest.model_validate(
            {
                "model": "m",
                "messages": [{"role": "user", "content": "x"}],
                "tools": tools,
                "tool_choice": self.choice,
                "stop": self.stop,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
        )


def recorded(tokenizer: Any, name: str, **options: Any) -> Recorded:
    """A conversation of the table; what is not cut off ends with the token that says so."""
    token_ids = tokenizer.encode(CONVERSATIONS[name], add_special_tokens=False)
    if name.startswith("cut off"):
        return Recorded(token_ids, "length", **options)
    return Recorded([*token_ids, tokenizer.eos_token_id], "stop", **options)


def assembled(serving: Any, tokenizer: Any, answer: Recorded, sizes: Iterator[int]) -> Message:
    """What a stream cut like this has said at its end."""
    return said_along(serving, tokenizer, answer, sizes)[-1]


def said_along(
    serving: Any, tokenizer: Any, answer: Recorded, sizes: Iterator[int]
) -> list[Message]:
    """What has been said after every chunk of an engine's stream, and at its end."""
    return asyncio.run(_said_along(serving, tokenizer, answer, sizes))


async def _said_along(
    serving: Any, tokenizer: Any, answer: Recorded, sizes: Iterator[int]
) -> list[Message]:
    from vllm.entrypoints.generate.base.protocol import RequestResponseMetadata

    request = answer.request()
    if serving.parser_cls is not None:
        request = serving.parser_cls(tokenizer, request.tools).adjust_request(request)
    message, along = Message(), []

    async def engine() -> AsyncIterator[Any]:
        for chunk in chunks(tokenizer, answer, sizes):
            yield chunk
            along.append(deepcopy(message))

    events = serving.chat_completion_stream_generator(
        *(request, engine(), "r", "m", [], tokenizer, RequestResponseMetadata(request_id="r"))
    )
    async for event in events:
        message.add(event)
    along[-1] = message  # with its usage
    return along


def chunks(tokenizer: Any, answer: Recorded, sizes: Iterator[int]) -> Iterator[Any]:
    """The answer as an engine gives it, so many tokens at a time.

    Where there are stop strings, text is held back in case one begins there.
    """
    from vllm.outputs import CompletionOutput, RequestOutput

    held = max(map(len, answer.stop)) - 1 if answer.stop else 0
    token_ids, done = answer.token_ids, 0
    while done < len(token_ids):
        chunk = token_ids[done : done + next(sizes)]
        before = text_of(tokenizer, token_ids[:done])
        done += len(chunk)
        until, ends = text_of(tokenizer, token_ids[:done]), done == len(token_ids)
        text = until[max(0, len(before) - held) : max(0, len(until) - (0 if ends else held))]
        said = CompletionOutput(
            0, text, chunk, None, None, finish_reason=answer.ended * ends or None
        )
        yield RequestOutput("r", None, [1], None, [said], ends)


def text_of(tokenizer: Any, token_ids: list[int]) -> str:
    """As the engine streams it: incomplete characters wait for their last token."""
    text = tokenizer.decode(token_ids, skip_special_tokens=True)
    return str(text).rstrip("\N{REPLACEMENT CHARACTER}")


def hold_every_cut_to_single_tokens(serving: Any, tokenizer: Any, answer: Recorded) -> Message:
    """Every chunk of 1 to 8 tokens at every place, and twenty mixtures of them."""
    single = assembled(serving, tokenizer, answer, repeat(1))
    for size in range(2, 9):
        for first in range(1, size + 1):
            cut = assembled(serving, tokenizer, answer, chain([first], repeat(size)))
            assert cut == single, f"a chunk of {first}, then chunks of {size}"
    for seed in range(20):
        rng = random.Random(seed)
        cut = assembled(serving, tokenizer, answer, iter(partial(rng.randint, 1, 8), 0))
        assert cut == single, f"chunks of 1 to 8, seed {seed}"
    return single


@pytest.mark.parametrize("parsers", PARSERS, ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_way_of_cutting_gives_the_same_message(parsers, name, tokenizer, caplog):
    answer = recorded(tokenizer, name)
    said = hold_every_cut_to_single_tokens(chat_serving(*parsers), tokenizer, answer)
    assert said.finish_reason == ("tool_calls" if said.calls else answer.ended)
    assert said.usage is not None
    assert said.usage["completion_tokens"] == len(answer.token_ids)
    assert "parsed several at once" not in caplog.text


OWN_MARKUP = {
    "gemma4": "<|channel>thought\nWeather?<channel|>"
    '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:3}<tool_call|>',
    "deepseek_v4": f"<think>Weather?</think>\n\n<{DSML}tool_calls>\n"
    f'<{DSML}invoke name="get_weather">\n'
    f'<{DSML}parameter name="city" string="true">Paris</{DSML}parameter>\n'
    f'<{DSML}parameter name="days" string="false">3</{DSML}parameter>\n'
    f"</{DSML}invoke>\n</{DSML}tool_calls>",
}


@pytest.mark.parametrize("name", OWN_MARKUP)
def test_markup_of_a_models_own_is_read_however_it_is_cut(name, tokenizer, caplog):
    serving = chat_serving(name, name)
    token_ids = tokenizer.encode(OWN_MARKUP[name], add_special_tokens=False)
    answer = Recorded([*token_ids, tokenizer.eos_token_id], "stop")
    said = hold_every_cut_to_single_tokens(serving, tokenizer, answer)
    assert said.reasoning == "Weather?"
    assert {i: (call[0], json.loads(call[1])) for i, call in said.calls.items()} == {
        0: ("get_weather", {"city": "Paris", "days": 3})
    }
    assert said.finish_reason == "tool_calls"
    for kept in range(len(token_ids) // 2, len(token_ids), 4):
        cut_off = Recorded(token_ids[:kept], "length")
        hold_every_cut_to_single_tokens(serving, tokenizer, cut_off)
    assert "parsed several at once" not in caplog.text


NAMED = {"type": "function", "function": {"name": "get_weather"}}
CALL = f"<tool_call>\n{WEATHER}\n</tool_call>"
# Where vLLM has a grammar for a parser's own format, that is what the model has to write.
CHOSEN: list[tuple[str, Choice, str, str]] = [
    ("hermes", "required", CALL, "tool_calls"),
    ("hermes", NAMED, CALL, "stop"),
    ("pythonic", "required", f"[{WEATHER.replace('arguments', 'parameters')}]", "tool_calls"),
    ("pythonic", NAMED, '{"city": "Paris", "days": 3}', "stop"),
]


@pytest.mark.parametrize(("tool", "choice", "text", "finish_reason"), CHOSEN)
def test_chosen_tools_are_called_however_their_answer_is_cut(
    tool, choice, text, finish_reason, tokenizer
):
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    answer = Recorded([*token_ids, tokenizer.eos_token_id], "stop", choice)
    said = hold_every_cut_to_single_tokens(chat_serving(tool, None), tokenizer, answer)
    assert {i: (call[0], json.loads(call[1])) for i, call in said.calls.items()} == {
        0: ("get_weather", {"city": "Paris", "days": 3})
    }
    assert said.finish_reason == finish_reason


@pytest.mark.parametrize("parsers", PARSERS[:4], ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", ["reasoning, then a call", "two calls", "nested arguments"])
def test_text_held_back_beside_stop_strings_comes_as_without_speculation(parsers, name, tokenizer):
    serving, answer = chat_serving(*parsers), recorded(tokenizer, name, stop=["\nUser:", "###"])
    single = assembled(serving, tokenizer, answer, repeat(1))
    for size in range(2, 9):
        cut = assembled(serving, tokenizer, answer, repeat(size))
        assert cut == single, f"chunks of {size}"


@pytest.mark.parametrize("parsers", PARSERS, ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_stream_that_is_taken_up_anywhere_goes_on_with_what_is_new(parsers, name, tokenizer):
    """Another target's parser gets all that was said at once, and stands where the first stood."""
    serving, answer = chat_serving(*parsers), recorded(tokenizer, name)
    undisturbed = said_along(serving, tokenizer, answer, repeat(1))
    for k in range(1, len(answer.token_ids), 3):
        resumed = said_along(serving, tokenizer, answer, chain([k], repeat(1)))
        assert resumed == undisturbed[k - 1 :], f"taken up after {k} tokens"


def test_what_is_parsed_is_what_was_said(tokenizer):
    answer = recorded(tokenizer, "reasoning, then a call")
    message = assembled(chat_serving("hermes", "qwen3"), tokenizer, answer, repeat(8))
    assert message.reasoning == "Weather?"
    assert message.calls == {0: ["get_weather", '{"city": "Paris", "days": 3}']}


class SlowTokenizerParser:
    """A parser of a model whose tokenizer is not one of the fast ones."""

    model_tokenizer = object()

    def __init__(self) -> None:
        self.parsed: list[list[int]] = []

    def parse_delta(self, text: str, token_ids: list[int], *others: Any, finished: bool) -> None:
        self.parsed.append(token_ids)


def test_a_tokenizer_that_cannot_tell_tokens_apart_is_told_of_once(caplog):
    parser = type("Parser", (TokenByToken, SlowTokenizerParser), {})()
    for token_ids in ([1], [2, 3], [4, 5]):
        parser.parse_delta("some text", token_ids, SimpleNamespace(), finished=False)
    assert parser.parsed == [[1], [2, 3], [4, 5]]
    assert caplog.text.count("has no fast backend") == 1
