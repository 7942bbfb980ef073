"""What a drafter is trained on: token sequences, and the batch that belongs to a step."""

from __future__ import annotations

import hashlib
import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from drafters.answers import read_answers

_BATCHES_PER_BUCKET = 16  # sequences are sorted by length within this many batches


@dataclass(frozen=True, slots=True)
class TextSequence:
    """One conversation: `tokens`, of which those from `first_output` on are the target's.

    `row` is its place among the usable ones of its file.
    """

    tokens: Sequence[int]
    first_output: int
    domain: str
    row: int = 0

    @property
    def anchors(self) -> range:
        """Positions a block can start at: output tokens between two others."""
        return range(max(1, self.first_output), len(self.tokens) - 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """B sequences, padded to T: `tokens` [B, T], `lengths` [B] and `anchors` [B, n], int64.

    A sequence has one anchor at least; with fewer than n positions to start at it is filled
    up with -1. `rows` int64 [B] are the sequences' `TextSequence.row`.
    """

    tokens: Tensor
    lengths: Tensor
    anchors: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same, on `device`."""
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))

    def share(self, rank: int, count: int, micro_batch: int | None = None) -> list[Batch]:
        """Worker `rank`'s of `count` sequences, `micro_batch` of them at a time."""
        mine = range(rank, len(self.rows), count)
        size = micro_batch or max(1, len(mine))
        return [self._part(list(mine[i : i + size])) for i in range(0, len(mine), size)]

    def _part(self, indices: list[int]) -> Batch:
        longest = int(self.lengths[indices].max())
        tokens = self.tokens[indices, :longest]
        return Batch(tokens, self.lengths[indices], self.anchors[indices], self.rows[indices])


def read_sequences(path: Path, max_tokens: int) -> list[TextSequence]:
    """Rows with the token ids of `prompt` and `output` and a `domain`, cut to `max_tokens`.

    `path` is a file of JSON lines or a directory of Parquet parts. Rows without a position to
    draft from are left out. Raises ValueError naming the place that cannot be read, or when
    nothing is left.
    """
    sequences: list[TextSequence] = []
    for place, row in read_answers(path):
        try:
            prompt, output = row["prompt"], row["output"]
            # Of 4 bytes each: a million answers are a billion tokens.
            tokens = array("i", [int(token) for token in [*prompt, *output][:max_tokens]])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(
                f"{place}: {error!r}; needed are the token ids of prompt and output"
            ) from None
        domain = str(row.get("domain", ""))
        sequence = TextSequence(tokens, len(prompt), domain, len(sequences))
        if len(sequence.anchors):
            sequences.append(sequence)
    if not sequences:
        raise ValueError(f"{path}: no row has an output of two tokens or more")
    return sequences


def split_held_out(
    sequences: Sequence[TextSequence], count: int
) -> tuple[list[TextSequence], list[TextSequence]]:
    """Those to train on, and at most `count` to evaluate on, each in their order.

    All answers of one prompt go one way, so no prompt that is held out is trained on; prompts
    that only begin alike are different ones. They are drawn by what they say, not by when
    answers came: the last ones are the longest. A prompt whose answers do not all have room
    is passed over, so held out are exactly `count`, or fewer by less than the answers of any
    prompt passed over.
    """
    by_prompt: dict[bytes, list[int]] = {}
    for one in sequences:
        by_prompt.setdefault(_prompt_digest(one), []).append(one.row)
    held_out: set[int] = set()
    for _, rows in sorted(by_prompt.items()):
        if len(held_out) + len(rows) <= count:
            held_out.update(rows)
    return (
        [one for one in sequences if one.row not in held_out],
        [one for one in sequences if one.row in held_out],
    )


def data_digest(sequences: Sequence[TextSequence]) -> str:
    """Sixteen hex digits that change with any token or with their order."""
    digest = hashlib.sha256()
    for sequence in sequences:
        digest.update(_bytes(sequence))
    return digest.hexdigest()[:16]


def _prompt_digest(sequence: TextSequence) -> bytes:
    return hashlib.sha256(array("i", sequence.tokens[: sequence.first_output])).digest()


def _bytes(sequence: TextSequence) -> bytes:
    return array("i", (sequence.first_output, *sequence.tokens)).tobytes()


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
        tokens[row, : len(sequence.tokens)] = torch.tensor(list(sequence.tokens))
        stretch = sequence.anchors
        if anchor_span is not None and len(stretch) > anchor_span:
            first = chosen.choice(stretch[: len(stretch) - anchor_span + 1])
            stretch = range(first, first + anchor_span)
        drawn = sorted(chosen.sample(stretch, min(num_anchors, len(stretch))))
        anchors[row, : len(drawn)] = torch.tensor(drawn, dtype=torch.int64)
    lengths = torch.tensor([len(sequence.tokens) for sequence in sequences])
    rows = torch.tensor([sequence.row for sequence in sequences])
    return Batch(tokens, lengths, anchors, rows)
