"""A tiny target, conversations for it, and drafters whose acceptance is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.dialogue import Dialogue, Limits
from drafters.evaluation.loop import SpeculativeLoop, VerifiedDraft
from drafters.evaluation.target import EvaluatedTarget
from drafters.messages import DraftBatch, DraftShape, SparseDistribution, StepBatch, StepRow

VOCABULARY = 24
HIDDEN = 16
GAMMA = 4
FIRST, END = 0, 1  # every conversation begins with FIRST


def tiny_target(scale: float = 0.5, **changes: Any) -> Qwen3ForCausalLM:
    """Random weights, large enough that a token depends on those before it."""
    config = Qwen3Config(
        hidden_size=HIDDEN,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        **{"vocab_size": VOCABULARY, "tie_word_embeddings": False, **changes},
    )
    model = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return model.eval()


def conversation(name: str, *turns: str) -> Conversation:
    return Conversation(name, "tiny", "test", turns)


def encode(users: Sequence[str], assistants: Sequence[str]) -> list[int]:
    """A letter is a token; a turn ends with END."""
    tokens = [FIRST]
    for i, user in enumerate(users):
        tokens += [2 + ord(letter) % (VOCABULARY - 2) for letter in user] + [END]
        if i < len(assistants):
            tokens += [*map(int, assistants[i].split()), END]
    return tokens


def decode(tokens: Sequence[int]) -> str:
    return " ".join(map(str, tokens))


def dialogues(conversations: Sequence[Conversation], **limits: Any) -> list[Dialogue]:
    given = {"max_output_tokens": 24, "max_tokens": 512, **limits}
    return [Dialogue(c, encode, decode, Limits(**given)) for c in conversations]


def held(
    model: Qwen3ForCausalLM,
    drafter: Any,
    some: Sequence[Dialogue],
    *,
    temperature: float = 0.0,
    num_seats: int = 3,
    layers: tuple[int, ...] = (),
    **loop: Any,
) -> list[VerifiedDraft]:
    """Every draft of the dialogues, `num_seats` held at a time."""
    speculation = SpeculativeLoop(
        EvaluatedTarget(model, layers, num_seats),
        drafter,
        DraftShape(HIDDEN * len(layers), GAMMA, needs_tokens=True),
        temperature=temperature,
        num_seats=num_seats,
        generator=torch.Generator().manual_seed(0),
        **loop,
    )
    return list(speculation.run(some))


class Scripted:
    """Drafts the target's own greedy continuation, right for as many tokens as is said.

    The drafts of a conversation are right for `script[0]`, `script[1]`, ... tokens, over
    and over. Keeps the features it was given, by conversation and position.
    """

    def __init__(self, model: Qwen3ForCausalLM, script: Sequence[int]) -> None:
        self.features: dict[str, dict[int, torch.Tensor]] = {}
        self.num_rows = 0
        self._model = model
        self._script = script
        self._texts: dict[str, list[int]] = {}
        self._num_drafts: dict[str, int] = {}

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        (batch,) = batches
        self._keep(batch)
        tokens = torch.tensor([self._draft(row) for row in batch.rows])
        return [DraftBatch(tokens, torch.full(tokens.shape, 0.75))]

    def _keep(self, batch: StepBatch) -> None:
        first = 0
        for row in batch.rows:
            kept = self.features.setdefault(row.request_id, {})
            for i in range(row.num_rows):
                kept[row.start + i] = batch.features[first + i]
            first += row.num_rows
        assert first == len(batch.features)
        self.num_rows += first

    def _draft(self, row: StepRow) -> list[int]:
        text = self._texts.setdefault(row.request_id, [FIRST])
        assert row.start < len(text)
        text[row.start + 1 :] = row.tokens
        assert text[row.end] == row.anchor
        number = self._num_drafts.get(row.request_id, 0)
        self._num_drafts[row.request_id] = number + 1
        right = self._script[number % len(self._script)]
        draft = greedy(self._model, text, GAMMA)
        return [t if i < right else (t + 1) % VOCABULARY for i, t in enumerate(draft)]


class Unchanging:
    """Draws every token from the same `q` [V], and says so or (`one_hot`) does not."""

    def __init__(self, q: torch.Tensor, *, one_hot: bool = False) -> None:
        self._q = q
        self._one_hot = one_hot
        self._generator = torch.Generator().manual_seed(1)

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        (batch,) = batches
        shape = (batch.num_drafts, GAMMA)
        rows = self._q.expand(batch.num_drafts, -1)
        tokens = torch.multinomial(rows, GAMMA, replacement=True, generator=self._generator)
        confidences = torch.full(shape, 0.5)
        if self._one_hot:
            return [DraftBatch(tokens, confidences)]
        ids = torch.arange(VOCABULARY).expand(*shape, -1)
        q = SparseDistribution(ids, self._q.expand(*shape, -1))
        return [DraftBatch(tokens, confidences, q)]


@torch.no_grad()
def greedy(model: Qwen3ForCausalLM, text: Sequence[int], count: int) -> list[int]:
    """The target alone: the `count` tokens it says after `text`, without any cache."""
    tokens = list(text)
    for _ in range(count):
        tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
    return tokens[len(text) :]
