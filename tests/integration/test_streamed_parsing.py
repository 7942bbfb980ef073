"""Tool calls and reasoning, streamed: however a token stream is cut, the message is the same.

Recorded texts go through vLLM's own parsers in chunks of 1 to 8 tokens. A chunk of one
token is what a client gets without speculation.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat
from typing import Any

import pytest
from transformers import AutoTokenizer

from deployments.engine.streaming import feed_parsers_token_by_token
from tests.integration.demo import DEMO_TARGET

pytestmark = pytest.mark.light

MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|python_tag|>"]
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

    def add(self, delta: Any) -> None:
        if delta is None:
            return
        self.content += delta.content or ""
        self.reasoning += delta.reasoning or ""
        for call in delta.tool_calls:
            name_and_arguments = self.calls.setdefault(call.index, ["", ""])
            if call.function is not None:
                name_and_arguments[0] += call.function.name or ""
                name_and_arguments[1] += call.function.arguments or ""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    loaded = AutoTokenizer.from_pretrained(DEMO_TARGET["source"])
    loaded.add_tokens(MARKERS, special_tokens=False)
    return loaded


def parser_class(tool: str | None, reasoning: str | None) -> Any:
    from vllm.parser import ParserManager

    feed_parsers_token_by_token(ParserManager)
    return ParserManager.get_parser(tool, reasoning, enable_auto_tools=tool is not None)


def request(stop: list[str] | None = None) -> Any:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("get_weather", "book")
    ]
    messages = [{"role": "user", "content": "x"}]
    return ChatCompletionRequest(
        model="m", messages=messages, tools=tools, tool_choice="auto", stop=stop
    )


def assembled(
    cls: Any,
    tokenizer: Any,
    token_ids: list[int],
    sizes: Iterator[int],
    stop: list[str] | None = None,
) -> Message:
    """What a stream cut like this has said at its end."""
    *_, message = said_along(cls, tokenizer, token_ids, sizes, stop)
    return message


def said_along(
    cls: Any,
    tokenizer: Any,
    token_ids: list[int],
    sizes: Iterator[int],
    stop: list[str] | None = None,
) -> Iterator[Message]:
    """What has been said after every chunk.

    `stop` strings, where given, never come: the engine holds text back in case they do.
    """
    asked = request(stop)
    held = max(map(len, stop)) - 1 if stop else 0
    parser = cls(tokenizer, asked.tools)
    asked = parser.adjust_request(asked)
    message, done = Message(), 0
    while done < len(token_ids):
        chunk = token_ids[done : done + next(sizes)]
        before, after = text_of(tokenizer, token_ids[:done]), done + len(chunk)
        until = text_of(tokenizer, token_ids[:after])
        kept = held if after < len(token_ids) else 0
        text = until[max(0, len(before) - held) : max(0, len(until) - kept)]
        done = after
        message.add(parser.parse_delta(text, chunk, asked, [1], finished=done == len(token_ids)))
        yield deepcopy(message)


def text_of(tokenizer: Any, token_ids: list[int]) -> str:
    """As the engine streams it: incomplete characters wait for their last token."""
    return str(tokenizer.decode(token_ids)).rstrip("\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("parsers", PARSERS, ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_way_of_cutting_gives_the_same_message(parsers, name, tokenizer):
    """Every chunk of 1 to 8 tokens at every place, and twenty mixtures of them."""
    cls = parser_class(*parsers)
    token_ids = tokenizer.encode(CONVERSATIONS[name], add_special_tokens=False)
    single = assembled(cls, tokenizer, token_ids, repeat(1))
    for size in range(2, 9):
        for first in range(1, size + 1):
            cut = assembled(cls, tokenizer, token_ids, chain([first], repeat(size)))
            assert cut == single, f"a chunk of {first}, then chunks of {size}"
    for seed in range(20):
        rng = random.Random(seed)
        cut = assembled(cls, tokenizer, token_ids, iter(partial(rng.randint, 1, 8), 0))
        assert cut == single, f"chunks of 1 to 8, seed {seed}"


@pytest.mark.parametrize("parsers", PARSERS[:4], ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", ["reasoning, then a call", "two calls", "nested arguments"])
def test_text_held_back_beside_stop_strings_comes_as_without_speculation(parsers, name, tokenizer):
    cls, stop = parser_class(*parsers), ["\nUser:", "###"]
    token_ids = tokenizer.encode(CONVERSATIONS[name], add_special_tokens=False)
    single = assembled(cls, tokenizer, token_ids, repeat(1), stop)
    for size in range(2, 9):
        cut = assembled(cls, tokenizer, token_ids, repeat(size), stop)
        assert cut == single, f"chunks of {size}"


@pytest.mark.parametrize("parsers", PARSERS, ids=lambda p: "+".join(str(n) for n in p))
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_a_stream_that_is_taken_up_anywhere_goes_on_with_what_is_new(parsers, name, tokenizer):
    """Another target's parser gets all that was said at once, and stands where the first stood."""
    cls = parser_class(*parsers)
    token_ids = tokenizer.encode(CONVERSATIONS[name], add_special_tokens=False)
    undisturbed = list(said_along(cls, tokenizer, token_ids, repeat(1)))
    for k in range(1, len(token_ids), 3):
        resumed = list(said_along(cls, tokenizer, token_ids, chain([k], repeat(1))))
        assert resumed == undisturbed[k - 1 :], f"taken up after {k} tokens"


def test_what_is_parsed_is_what_was_said(tokenizer):
    text = CONVERSATIONS["reasoning, then a call"]
    token_ids = tokenizer.encode(text, add_special_tokens=False)
    message = assembled(parser_class("hermes", "qwen3"), tokenizer, token_ids, repeat(8))
    assert message.reasoning == "Weather?"
    assert message.calls == {0: ["get_weather", '{"city": "Paris", "days": 3}']}
