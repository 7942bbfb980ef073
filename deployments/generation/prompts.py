"""Which prompts a target is to answer, and how."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one answer is drawn. `ignore_eos` goes on past the end of the answer."""

    temperature: float
    max_tokens: int
    ignore_eos: bool


@dataclass(frozen=True, slots=True)
class Generation:
    """Which prompts are chosen, and how answers to them are drawn.

    Temperatures take turns. With `past_end` every other turn of them goes on past the end of
    its answer, as a benchmark with a fixed output length does.
    """

    temperatures: Sequence[float] = (0.0, 0.7)
    max_tokens: int = 192
    max_prompt_tokens: int = 300
    rows_per_file: int = 4000
    limit: int | None = None
    past_end: bool = True
    seed: int = 0

    def sampling(self, index: int) -> Sampling:
        """Of the prompt at `index`."""
        turn, place = divmod(index, len(self.temperatures))
        ignore_eos = self.past_end and turn % 2 == 1
        return Sampling(self.temperatures[place], self.max_tokens, ignore_eos)


class Prompt(NamedTuple):
    """A conversation up to one of its user turns, as token ids, and how to answer it.

    `id` is its file, line and turn: the same text has the same in every run.
    """

    id: str
    domain: str
    source: str
    tokens: tuple[int, ...]
    sampling: Sampling


def read_prompts(files: Sequence[Path], tokenizer: Any, options: Generation) -> list[Prompt]:
    """At most `rows_per_file` prompts of each JSON-lines file (`.gz` or not), shuffled.

    A row is `{"messages": [...], "domain": ..., "source": ...}`. Raises ValueError naming
    the file and line that is not.
    """
    chosen = random.Random(options.seed)
    found: list[tuple[str, dict[str, Any], tuple[int, ...]]] = []
    for file in files:
        rows = list(_rows(file))
        chosen.shuffle(rows)
        encoded = (_encoded(file, number, row, tokenizer, options.seed) for number, row in rows)
        fitting = (one for one in encoded if len(one[2]) <= options.max_prompt_tokens)
        found.extend(islice(fitting, options.rows_per_file))
    chosen.shuffle(found)
    return [
        Prompt(
            id_, str(row.get("domain", "")), str(row.get("source", "")), tokens, options.sampling(i)
        )
        for i, (id_, row, tokens) in enumerate(found[: options.limit])
    ]


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    opener: Callable[..., Any] = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                assert any(message["role"] == "user" for message in row["messages"])
            except (ValueError, KeyError, TypeError, AssertionError):
                raise ValueError(
                    f'{file}:{number}: needed is {{"messages": [...]}} with a user turn'
                ) from None
            yield number, row


def _encoded(
    file: Path, number: int, row: dict[str, Any], tokenizer: Any, seed: int
) -> tuple[str, dict[str, Any], tuple[int, ...]]:
    messages = row["messages"]
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    name = file.name.split(".")[0]
    # Of the row alone: a run with other limits does not ask it again at another turn.
    last = random.Random(f"{seed} {name} {number}").choice(users[:3])
    encoded = tokenizer.apply_chat_template(
        messages[: last + 1], add_generation_prompt=True, return_dict=True
    )
    return f"{name}:{number}:{last}", row, tuple(encoded["input_ids"])
