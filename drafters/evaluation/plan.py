"""What is evaluated, and how it is cut into chunks that an interruption can lose."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.chat import Thinking


@dataclass(frozen=True, slots=True)
class Mode:
    """How answers are drawn. A `temperature` of 0 is greedy."""

    temperature: float
    thinking: Thinking


@dataclass(frozen=True, slots=True)
class Chunk:
    """Conversations that are held together, in one mode. `number` counts all chunks from 0."""

    number: int
    mode: Mode
    conversations: tuple[Conversation, ...]


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """The whole of an evaluation but for target and drafter.

    `max_tokens` bounds prompt and output together, `window` is the drafter's context in
    tokens, `num_candidates` what sampled draft tokens are drawn from; `num_seats`
    conversations are held at a time, `chunk_size` between two writes. Results depend on all of
    it: random numbers are drawn for whole batches.
    """

    benchmarks: Mapping[str, Sequence[Conversation]]
    modes: tuple[Mode, ...]
    max_output_tokens: int
    max_tokens: int
    window: int
    num_candidates: int
    num_seats: int
    chunk_size: int
    seed: int

    def chunks(self) -> list[Chunk]:
        """Every chunk has prompts of all benchmarks, so the first ones speak for the rest."""
        conversations = tuple(_interleaved(self.benchmarks))
        size = self.chunk_size
        parts = [conversations[i : i + size] for i in range(0, len(conversations), size)]
        pairs = [(mode, part) for mode in self.modes for part in parts]
        return [Chunk(number, mode, part) for number, (mode, part) in enumerate(pairs)]

    def as_metadata(self) -> dict[str, str]:
        """All that a file of another plan would differ in."""
        return {
            **described(self.benchmarks),
            "modes": ", ".join(f"{m.temperature:g}/{m.thinking}" for m in self.modes),
            "max_output_tokens": str(self.max_output_tokens),
            "max_tokens": str(self.max_tokens),
            "window_tokens": str(self.window),
            "num_candidates": str(self.num_candidates),
            "num_seats": str(self.num_seats),
            "chunk_size": str(self.chunk_size),
            "seed": str(self.seed),
        }


def described(benchmarks: Mapping[str, Sequence[Conversation]]) -> dict[str, str]:
    """Their names and sizes, and a digest of what is asked."""
    texts = repr([(c.key, c.turns) for c in _interleaved(benchmarks)])
    return {
        "benchmarks": ", ".join(f"{k} ({len(v)})" for k, v in benchmarks.items()),
        "prompts_digest": hashlib.sha256(texts.encode()).hexdigest()[:12],
    }


def _interleaved(benchmarks: Mapping[str, Sequence[Conversation]]) -> Iterator[Conversation]:
    """All conversations; any stretch has about the same share of each benchmark."""
    places = [
        ((i + 0.5) / len(conversations), conversation)
        for conversations in benchmarks.values()
        for i, conversation in enumerate(conversations)
    ]
    return (conversation for _, conversation in sorted(places, key=lambda place: place[0]))
