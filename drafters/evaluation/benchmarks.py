"""Benchmarks: conversations to evaluate on, from directories of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Conversation:
    """The user's turns of one benchmark prompt; most have one. `id` is unique in its file."""

    id: str
    benchmark: str
    domain: str
    turns: tuple[str, ...]

    @property
    def key(self) -> str:
        """Unique among all benchmarks."""
        return f"{self.benchmark}/{self.id}"


def read_benchmarks(directory: Path, names: Sequence[str] = ()) -> dict[str, list[Conversation]]:
    """Every `*.jsonl` in `directory`, or those of `names`, by file name without its suffix.

    A row is `{"id": ..., "prompt": ...}` with `domain` and `turns` where there are any. Raises
    ValueError naming the file, the line and what is missing.
    """
    paths = {path.stem: path for path in sorted(directory.glob("*.jsonl"))}
    unknown = [name for name in names if name not in paths]
    if unknown or not paths:
        found = ", ".join(paths) or "no *.jsonl file"
        wanted = ", ".join(unknown) or "a benchmark"
        raise ValueError(f"{directory}: needed is {wanted}; there is {found}")
    return {name: _read(paths[name]) for name in (names or paths)}


def _read(path: Path) -> list[Conversation]:
    conversations = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                turns = tuple(row.get("turns") or (row["prompt"],))
                if not all(isinstance(turn, str) for turn in turns):
                    raise TypeError("prompt and turns are texts")
                domain = str(row.get("domain", path.stem))
                conversations.append(Conversation(str(row["id"]), path.stem, domain, turns))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f'{path}:{number}: {error!r}; needed is {{"id": ..., "prompt": ...}}'
                ) from None
    if not conversations:
        raise ValueError(f"{path}: no row in it")
    return conversations


def spread(conversations: Sequence[Conversation], count: int) -> list[Conversation]:
    """At most `count` of them, evenly spread over the file."""
    total = len(conversations)
    count = min(count, total)
    return [conversations[i * total // count] for i in range(count)]


def chained(conversations: Sequence[Conversation], num_chains: int) -> list[Conversation]:
    """The same prompts as `num_chains` long conversations: one turn after the other.

    That is how short prompts come to stand at late positions, behind the target's own
    answers. Chain i holds the prompts i, i + num_chains, and so on.
    """
    chains = []
    for first in range(min(num_chains, len(conversations))):
        links = conversations[first::num_chains]
        turns = tuple(turn for link in links for turn in link.turns)
        chains.append(replace(links[0], id=f"chain of {links[0].id}", turns=turns))
    return chains
