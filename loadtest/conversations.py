"""What is asked: conversations of several domains in a fixed order, as every arm gets them."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from loadtest.prompts import CHAT, CODE, MATH, SECOND_TURNS

_CHARS_PER_TOKEN = 3  # a filled prompt is rather shorter than asked for; rows have its real length


@dataclass(frozen=True, slots=True)
class Conversation:
    """The user's turns; each is asked after the answers to those before it.

    `tools` go along with every turn, as the API takes them.
    """

    id: str
    domain: str
    turns: tuple[str, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


def bundled(turns: int = 1) -> list[Conversation]:
    """Sixty prompts of three domains, going on for `turns` turns."""
    return [
        Conversation(f"{domain}-{i}", domain, (prompt, *islice(cycle(SECOND_TURNS), turns - 1)))
        for domain, prompts in (("math", MATH), ("code", CODE), ("chat", CHAT))
        for i, prompt in enumerate(prompts)
    ]


def read_conversations(directory: Path, turns: int = 1) -> list[Conversation]:
    """Every row of every `*.jsonl` in `directory`: `prompt` or `turns`, `domain`, `id`, `tools`.

    At most `turns` turns of each. Raises ValueError naming file, line and mend.
    """
    files = sorted(directory.glob("*.jsonl"))
    if not files:
        raise ValueError(f"{directory} has no *.jsonl file; give a directory of prompts")
    return [
        _conversation(path, number, line, turns)
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line.strip()
    ]


def _conversation(path: Path, number: int, line: str, turns: int) -> Conversation:
    try:
        row = json.loads(line)
        said = row.get("turns") or [row["prompt"]]
        tools = tuple(row.get("tools") or ())
        if not all(isinstance(turn, str) and turn for turn in said):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"{path}:{number}: needed is a JSON object with `prompt` or `turns`, text"
        ) from None
    return Conversation(
        str(row.get("id", f"{path.stem}-{number}")),
        str(row.get("domain", path.stem)),
        tuple(said[:turns]),
        tools,
    )


def parse_mix(texts: Sequence[str]) -> dict[str, int]:
    """`math=2 code=1`: how many prompts of each domain in a row. Raises ValueError."""
    mix = {}
    for text in texts:
        domain, _, weight = text.partition("=")
        if not weight.isdigit() or int(weight) == 0:
            raise ValueError(f"{text!r}: write a domain, =, and a whole number above 0")
        mix[domain] = int(weight)
    return mix


def mixed(
    conversations: Sequence[Conversation], count: int, *, mix: Mapping[str, int], seed: int
) -> list[Conversation]:
    """`count` conversations, the domains taking turns by `mix` (empty: evenly).

    Each domain is shuffled by `seed` and begins again when it is used up. Raises ValueError
    for a domain that is not there.
    """
    domains: dict[str, list[Conversation]] = defaultdict(list)
    for one in conversations:
        domains[one.domain].append(one)
    missing = sorted(mix.keys() - domains.keys())
    if missing:
        there = ", ".join(sorted(domains))
        raise ValueError(f"no prompts of {', '.join(missing)}; there are {there}")
    rng = random.Random(seed)
    pattern = [d for d in sorted(domains) for _ in range(mix.get(d, 0) if mix else 1)]
    sources = {}
    for domain in sorted(domains):
        rng.shuffle(domains[domain])
        sources[domain] = cycle(domains[domain])
    return [next(sources[domain]) for domain in islice(cycle(pattern), count)]


def filled(
    conversations: Sequence[Conversation], context_tokens: int, *, seed: int
) -> list[Conversation]:
    """The first turns made `context_tokens` long by text of other prompts before them."""
    rng = random.Random(seed)
    texts = [one.turns[0] for one in conversations]
    return [_filled(one, texts, context_tokens * _CHARS_PER_TOKEN, rng) for one in conversations]


def _filled(
    one: Conversation, texts: Sequence[str], chars: int, rng: random.Random
) -> Conversation:
    missing = chars - len(one.turns[0])
    filling: list[str] = []
    while missing > 0:
        filling.append(rng.choice(texts)[:missing])
        missing -= len(filling[-1]) + 1
    return replace(one, turns=("\n".join([*filling, one.turns[0]]), *one.turns[1:]))
