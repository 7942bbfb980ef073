"""What a drafter is trained on: token sequences, and the batch that belongs to a step."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

_BATCHES_PER_BUCKET = 16  # sequences are sorted by length within this many batches


@dataclass(frozen=True, slots=True)
class TextSequence:
    """One conversation: `tokens`, of which those from `first_output` on are the target's."""

    tokens: tuple[int, ...]
    first_output: int
    domain: str

    @property
    def anchors(self) -> range:
        """Positions a block can start at: output tokens between two others."""
        return range(max(1, self.first_output), len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences, padded to T: `tokens` and `anchors` int64, `lengths` int64 [B].

    `anchors` is [B, n] with at least one each; a sequence with fewer than n positions to
    start at is filled up with -1.
    """

    tokens: Tensor
    lengths: Tensor
    anchors: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same, on `device`."""
        return Batch(self.tokens.to(device), self.lengths.to(device), self.anchors.to(device))


def read_sequences(path: Path, max_tokens: int) -> list[TextSequence]:
    """Rows `{"prompt": [ids], "output": [ids], "domain": ...}`, cut to `max_tokens`.

    Rows without a position to draft from are left out. Raises ValueError naming the line
    that cannot be read, or when nothing is left.
    """
    sequences = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                prompt, output = row["prompt"], row["output"]
                tokens = tuple(int(token) for token in [*prompt, *output][:max_tokens])
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}:{number}: {error!r}; needed is one JSON object a line with the "
                    "token ids of prompt and output"
                ) from None
            sequence = TextSequence(tokens, len(prompt), str(row.get("domain", "")))
            if len(sequence.anchors):
                sequences.append(sequence)
    if not sequences:
        raise ValueError(f"{path}: no row has an output of two tokens or more")
    return sequences


class BatchPlan:
    """Which sequences and anchors a step trains on: a function of seed and step alone.

    That is what lets a run resume exactly: nothing has to be remembered but the step.
    """

    def __init__(
        self,
        sequences: Sequence[TextSequence],
        *,
        batch_size: int,
        num_anchors: int,
        seed: int,
        anchor_span: int | None = None,
    ) -> None:
        self._sequences = sequences
        self._batch_size = batch_size
        self._num_anchors = num_anchors
        self._anchor_span = anchor_span
        self._seed = seed
        self._epoch = -1
        self._order: list[list[int]] = []

    @property
    def steps_per_epoch(self) -> int:
        return max(1, len(self._sequences) // self._batch_size)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        epoch, index = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._shuffled(epoch)
        chosen = random.Random(f"{self._seed} anchors {step}")
        rows = [self._sequences[i] for i in self._order[index]]
        return make_batch(rows, self._num_anchors, chosen, anchor_span=self._anchor_span)

    def _shuffled(self, epoch: int) -> list[list[int]]:
        """Batches of similar length, in random order."""
        chosen = random.Random(f"{self._seed} epoch {epoch}")
        order = list(range(len(self._sequences)))
        chosen.shuffle(order)
        bucket = self._batch_size * _BATCHES_PER_BUCKET
        by_length = [
            i
            for first in range(0, len(order), bucket)
            for i in sorted(
                order[first : first + bucket], key=lambda i: len(self._sequences[i].tokens)
            )
        ]
        size = self._batch_size
        batches = [by_length[i * size : (i + 1) * size] for i in range(self.steps_per_epoch)]
        chosen.shuffle(batches)
        return batches


def make_batch(
    sequences: Sequence[TextSequence],
    num_anchors: int,
    chosen: random.Random,
    *,
    anchor_span: int | None = None,
) -> Batch:
    """Pad sequences and draw up to `num_anchors` different anchors of each, in order.

    With an `anchor_span`, a sequence's anchors come from so many positions in a row.
    """
    longest = max(len(sequence.tokens) for sequence in sequences)
    tokens = torch.zeros(len(sequences), longest, dtype=torch.int64)
    anchors = torch.full((len(sequences), num_anchors), -1, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence.tokens)] = torch.tensor(sequence.tokens)
        stretch = sequence.anchors
        if anchor_span is not None and len(stretch) > anchor_span:
            first = chosen.choice(stretch[: len(stretch) - anchor_span + 1])
            stretch = range(first, first + anchor_span)
        drawn = sorted(chosen.sample(stretch, min(num_anchors, len(stretch))))
        anchors[row, : len(drawn)] = torch.tensor(drawn, dtype=torch.int64)
    lengths = torch.tensor([len(sequence.tokens) for sequence in sequences])
    return Batch(tokens, lengths, anchors)
