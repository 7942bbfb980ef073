"""A drafter that knows the true continuation and spoils it at random."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch

from drafters.messages import DraftBatch, StepBatch, StepRow
from drafters.sources import SourceStats


class Oracle:
    """Drafts the `block_size` tokens that follow each row's anchor.

    `texts` maps a request to its whole token sequence, known from a run without
    speculation. With probability `spoil` a draft is wrong at one random position, so
    every accepted length from 0 to `block_size` comes up.
    """

    def __init__(
        self, texts: Mapping[str, Sequence[int]], block_size: int, spoil: float, seed: int = 0
    ) -> None:
        self._texts = texts
        self._block_size = block_size
        self._spoil = spoil
        self._random = random.Random(seed)
        self.stats = SourceStats()

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        return [self.draft(batch) for batch in batches]

    def draft(self, batch: StepBatch) -> DraftBatch:
        drafts = [self._draft_row(row) for row in batch.rows if row.anchor is not None]
        tokens = torch.tensor(drafts, dtype=torch.int64).reshape(-1, self._block_size)
        return DraftBatch(tokens, torch.ones(tokens.shape))

    def _draft_row(self, row: StepRow) -> list[int]:
        # vLLM adds a suffix to the ids it is given.
        text = self._texts[row.request_id.split("-")[0]]
        if row.end < len(text):  # a step may run past the end of the text; vLLM cuts that off
            assert text[row.end] == row.anchor, "the adapter's anchor or position is off"
        draft = list(text[row.end + 1 : row.end + 1 + self._block_size])
        draft += [5] * (self._block_size - len(draft))
        if self._random.random() < self._spoil:
            position = self._random.randrange(self._block_size)
            draft[position] = (draft[position] + 1) % 8000
        return draft

    def close(self) -> None:
        pass
