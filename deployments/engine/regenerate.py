"""Training text for a drafter: a target's own answers to the prompts of conversations.

A drafter learns to guess what its target says, so it is trained on that and not on what
the conversations' authors said.
"""

from __future__ import annotations

import gzip
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

_CHUNK = 512  # rows between two writes: what an interruption can lose


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation up to one of its user turns, as token ids."""

    domain: str
    source: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """How answers are drawn: temperature and end-of-text handling take turns by row.

    Every other row goes on past the end of its answer, as a benchmark with a fixed output
    length does.
    """

    temperatures: Sequence[float] = (0.0, 0.7)
    max_tokens: int = 192
    max_prompt_tokens: int = 300
    rows_per_file: int = 4000
    seed: int = 0


def read_prompts(files: Sequence[Path], tokenizer: Any, options: Generation) -> list[Prompt]:
    """At most `rows_per_file` prompts of each JSON-lines file (`.gz` or not), shuffled.

    A row is `{"messages": [...], "domain": ..., "source": ...}`. Raises ValueError naming
    the file and line that is not.
    """
    chosen = random.Random(options.seed)
    prompts: list[Prompt] = []
    for file in files:
        rows = list(_rows(file))
        chosen.shuffle(rows)
        short = (_prompt(row, tokenizer, chosen) for row in rows)
        fitting = (p for p in short if len(p.tokens) <= options.max_prompt_tokens)
        prompts.extend(islice(fitting, options.rows_per_file))
    chosen.shuffle(prompts)
    return prompts


def _rows(file: Path) -> Iterator[dict[str, Any]]:
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
            yield row


def _prompt(row: dict[str, Any], tokenizer: Any, chosen: random.Random) -> Prompt:
    messages = row["messages"]
    users = [i for i, message in enumerate(messages) if message["role"] == "user"]
    last = chosen.choice(users[:3])
    encoded = tokenizer.apply_chat_template(
        messages[: last + 1], add_generation_prompt=True, return_dict=True
    )
    tokens = tuple(encoded["input_ids"])
    return Prompt(str(row.get("domain", "")), str(row.get("source", "")), tokens)


def regenerate(
    target_dir: str,
    files: Sequence[Path],
    output: Path,
    options: Generation,
    progress: Callable[[str], None],
) -> None:
    """Let the target answer and append `{domain, source, prompt, output}` rows to `output`.

    Rows that `output` holds already are not generated again, so an interrupted run goes on
    where it stopped.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from transformers import AutoTokenizer
    from vllm import LLM, SamplingParams

    prompts = read_prompts(files, AutoTokenizer.from_pretrained(target_dir), options)
    done = sum(1 for _ in output.open()) if output.exists() else 0
    engine = LLM(
        model=target_dir,
        max_model_len=options.max_prompt_tokens + options.max_tokens + 8,
        max_num_seqs=128,
        enforce_eager=True,
        block_size=32,
        kv_cache_memory_bytes=1 << 30,
        seed=options.seed,
    )
    params = [
        SamplingParams(
            temperature=options.temperatures[i % len(options.temperatures)],
            max_tokens=options.max_tokens,
            ignore_eos=i // len(options.temperatures) % 2 == 1,
        )
        for i in range(len(prompts))
    ]
    for first in range(done, len(prompts), _CHUNK):
        chunk = prompts[first : first + _CHUNK]
        answers = engine.generate(
            [{"prompt_token_ids": list(prompt.tokens)} for prompt in chunk],
            params[first : first + _CHUNK],
            use_tqdm=False,
        )
        lines = [_line(p, answer.outputs[0]) for p, answer in zip(chunk, answers, strict=True)]
        with output.open("a", encoding="utf-8") as file:
            file.write("".join(lines))
        progress(f"{first + len(chunk)} of {len(prompts)} prompts answered")


def _line(prompt: Prompt, answer: Any) -> str:
    row = {
        "domain": prompt.domain,
        "source": prompt.source,
        "prompt": prompt.tokens,
        "output": list(answer.token_ids),
    }
    return json.dumps(row) + "\n"
