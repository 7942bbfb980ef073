import json
from collections import Counter

import pytest

from loadtest.conversations import (
    Conversation,
    bundled,
    filled,
    mixed,
    parse_mix,
    read_conversations,
)


def test_the_bundled_prompts_are_sixty_of_three_domains():
    assert Counter(c.domain for c in bundled()) == {"math": 20, "code": 20, "chat": 20}
    assert {len(c.turns) for c in bundled(turns=3)} == {3}


def test_the_order_is_the_seeds_alone():
    order = [c.id for c in mixed(bundled(), 30, mix={}, seed=3)]
    assert order == [c.id for c in mixed(bundled(), 30, mix={}, seed=3)]
    assert order != [c.id for c in mixed(bundled(), 30, mix={}, seed=4)]


def test_domains_take_turns_by_the_mix():
    chosen = mixed(bundled(), 9, mix={"math": 2, "code": 1}, seed=0)
    assert [c.domain for c in chosen] == ["code", "math", "math"] * 3
    assert len({c.id for c in chosen}) == 9


def test_a_domain_begins_again_when_it_is_used_up():
    chosen = mixed(bundled(), 25, mix={"chat": 1}, seed=0)
    assert Counter(c.id for c in chosen)[chosen[0].id] == 2
    assert len({c.id for c in chosen}) == 20


def test_a_domain_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no prompts of law; there are chat, code, math"):
        mixed(bundled(), 3, mix={"law": 1}, seed=0)


@pytest.mark.parametrize("text", ["math", "math=", "math=0", "math=x"])
def test_a_mix_is_written_with_whole_numbers(text: str):
    assert parse_mix(["math=2", "code=1"]) == {"math": 2, "code": 1}
    with pytest.raises(ValueError, match="whole number"):
        parse_mix([text])


def test_prompts_are_filled_with_others_up_to_the_length():
    chosen = filled(bundled()[:10], 200, seed=0)
    assert {len(c.turns[0]) >= 600 for c in chosen} == {True}
    assert max(len(c.turns[0]) for c in chosen) <= 600 + max(len(c.turns[0]) for c in bundled())
    assert chosen[3].turns[0].endswith(bundled()[3].turns[0])
    assert chosen == filled(bundled()[:10], 200, seed=0)


def test_rows_of_a_directory_become_conversations(tmp_path):
    tool = {"type": "function", "function": {"name": "look"}}
    rows = [
        {"id": "x", "domain": "law", "prompt": "a", "turns": ["a", "b", "c"], "tools": [tool]},
        {"prompt": "d"},
    ]
    (tmp_path / "one.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_conversations(tmp_path, turns=2) == [
        Conversation("x", "law", ("a", "b"), (tool,)),
        Conversation("one-2", "one", ("d",)),
    ]


@pytest.mark.parametrize("line", ["[1]", "{}", "{", '{"prompt": 3}', '{"turns": [""]}'])
def test_a_row_that_asks_nothing_is_named(tmp_path, line: str):
    (tmp_path / "one.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(ValueError, match=r"one\.jsonl:2: needed"):
        read_conversations(tmp_path)


def test_a_directory_without_prompts_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no \*\.jsonl file"):
        read_conversations(tmp_path)
