"""Benchmarks and chat templates: what conversations are held."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drafters.evaluation.benchmarks import Conversation, chained, read_benchmarks, spread
from drafters.evaluation.chat import ChatTemplate, end_tokens

DEMO_TARGET = Path(__file__).parents[4] / "models" / "demo-target"
BENCHMARKS = Path(__file__).parents[5] / "shared" / "data" / "benchmarks"
QWEN3_SWITCH = (
    "{%- if enable_thinking is defined and enable_thinking is false %}<think></think>{%- endif %}"
)


def write(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def conversations(count: int) -> list[Conversation]:
    return [Conversation(f"p{i}", "some", "chat", (f"prompt {i}",)) for i in range(count)]


def test_benchmarks_are_read_from_a_directory(tmp_path):
    write(tmp_path / "math.jsonl", {"id": 7, "prompt": "1 + 1?", "domain": "math"})
    write(tmp_path / "chat.jsonl", {"id": "c", "prompt": "Hi", "turns": ["Hi", "And?"]})
    assert read_benchmarks(tmp_path) == {
        "chat": [Conversation("c", "chat", "chat", ("Hi", "And?"))],
        "math": [Conversation("7", "math", "math", ("1 + 1?",))],
    }
    assert list(read_benchmarks(tmp_path, ["math"])) == ["math"]


@pytest.mark.parametrize("row", [{"id": "a"}, {"prompt": "x"}, {"id": "a", "prompt": 3}, []])
def test_a_row_that_is_no_prompt_is_named(tmp_path, row):
    write(tmp_path / "math.jsonl", {"id": "a", "prompt": "x"}, row)
    with pytest.raises(ValueError, match=r"math\.jsonl:2"):
        read_benchmarks(tmp_path)


def test_missing_benchmarks_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"no \*\.jsonl file"):
        read_benchmarks(tmp_path)
    write(tmp_path / "math.jsonl", {"id": "a", "prompt": "x"})
    with pytest.raises(ValueError, match="needed is code; there is math"):
        read_benchmarks(tmp_path, ["code"])


def test_a_few_prompts_are_spread_over_the_file():
    assert [c.id for c in spread(conversations(10), 4)] == ["p0", "p2", "p5", "p7"]
    assert len(spread(conversations(3), 4)) == 3


def test_chained_prompts_are_turns_of_long_conversations():
    first, second = chained(conversations(5), 2)
    assert first.turns == ("prompt 0", "prompt 2", "prompt 4")
    assert second.turns == ("prompt 1", "prompt 3")
    assert first.id == "chain of p0"


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason=f"{BENCHMARKS} is not there")
def test_the_nine_benchmarks():
    found = read_benchmarks(BENCHMARKS)
    assert len(found) == 9
    assert {len(c.turns) for c in found["mt-bench"]} == {2}
    keys = [c.key for some in found.values() for c in some]
    assert len(set(keys)) == len(keys)


def test_the_demos_template():
    chat = ChatTemplate.load(DEMO_TARGET)
    assert chat.thinking_modes == ("none",)
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYes<|im_end|>\n"
    text += "<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    tokens = chat.encode(["Hi", "And?"], ["Yes"], "none")
    assert chat._tokenizer.decode(tokens) == text
    assert chat.decode(chat._tokenizer.encode("Yes<|im_end|>")) == "Yes"
    assert end_tokens(DEMO_TARGET) == {0, 2}


def test_thinking_is_switched_where_the_template_has_it():
    tokenizer = ChatTemplate.load(DEMO_TARGET)._tokenizer
    tokenizer.chat_template += QWEN3_SWITCH
    chat = ChatTemplate(tokenizer)
    assert chat.thinking_modes == ("off", "on")
    off, on = (chat.encode(["Hi"], [], switch) for switch in chat.thinking_modes)
    assert tokenizer.decode(off) == tokenizer.decode(on) + "<think></think>"


def test_a_tokenizer_without_a_template_is_refused():
    tokenizer = ChatTemplate.load(DEMO_TARGET)._tokenizer
    tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template"):
        ChatTemplate(tokenizer)
