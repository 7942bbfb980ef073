"""What a target tells a drafter after a step, and what the drafter answers.

These are the only things that cross between the two, inside one process or over
the wire (`drafters.wire`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch


@dataclass(frozen=True, slots=True)
class DraftShape:
    """What target and drafter have to agree on: width of a feature row, tokens of a draft.

    `needs_tokens` says whether the target's rows carry `StepRow.tokens`.
    """

    feature_size: int
    block_size: int
    needs_tokens: bool = False


class StepRow(NamedTuple):
    """One request's share of a target step.

    The request's new feature rows cover the absolute positions `start` to
    `start + num_rows - 1`; the anchor, the newest committed token, which the target
    has not yet seen, sits at `start + num_rows`. `anchor` is None while the prompt is
    still being prefilled: the rows become context and nothing is drafted.

    `block_hashes` names full context blocks by the hash of the whole prefix up to
    their end, starting with block `first_block` (block b covers the positions
    `b * block_tokens` to `(b + 1) * block_tokens - 1`). A session's first row names
    every full block up to its end, so that blocks below `start` can be reused; a
    later row names those it completes.

    `tokens` are the ids at the positions `start + 1` to `start + num_rows`, one for each
    feature row: that of the token after it. The last is the newest committed token, which
    is the anchor where a draft is wanted and has to be known where none is; while the
    prompt is unfinished, it is the prompt's next token. Only for drafters whose shape
    `needs_tokens`; empty for others.

    At a `temperature` above 0 the draft is drawn from the drafter's distribution at that
    temperature; at 0 it is the drafter's first choice.
    """

    request_id: str
    epoch: int
    start: int
    num_rows: int
    anchor: int | None
    first_block: int = 0
    block_hashes: tuple[bytes, ...] = ()
    temperature: float = 0.0
    tokens: tuple[int, ...] = ()

    @property
    def end(self) -> int:
        """Position of the anchor: one past the last feature row."""
        return self.start + self.num_rows


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One target step: the rows of its requests and their features.

    `features` is `[sum of num_rows, feature_size]`, in the order of `rows`; `closed`
    names requests whose sessions end before the rows are read. `trace` is set where the
    drafter is to record the step: a W3C `traceparent`.
    """

    target_id: str
    rows: tuple[StepRow, ...]
    features: torch.Tensor
    closed: tuple[str, ...] = ()
    trace: str = ""

    @property
    def num_drafts(self) -> int:
        """How many rows ask for a draft."""
        return sum(row.anchor is not None for row in self.rows)


@dataclass(frozen=True, slots=True)
class SparseDistribution:
    """Distributions over the vocabulary of which only k entries are not zero.

    `token_ids` int64 and `probs` float32 are [..., k]; probs sum to 1 over k. An entry
    with probability 0 is padding, whatever its id. A one-hot distribution has all its
    probability on one entry.
    """

    token_ids: torch.Tensor
    probs: torch.Tensor

    def to(self, device: torch.device) -> SparseDistribution:
        """The same on `device`."""
        return SparseDistribution(self.token_ids.to(device), self.probs.to(device))

    def prob_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Float32 [...]: the probability of `tokens` int64 [...]."""
        hits = self.token_ids == tokens.unsqueeze(-1)
        return (self.probs * hits).sum(-1)


@dataclass(frozen=True, slots=True)
class DraftBatch:
    """Drafts for the rows with an anchor, in their order.

    `tokens` is int64 `[num_drafts, block_size]`. `confidences` is float32 of the same
    shape: P(token k is accepted | tokens before k are accepted). `distribution`
    `[num_drafts, block_size, k]` is what every token was drawn from, given those before
    it; one-hot where the row's temperature is 0. None where all rows are. `answered` bool
    `[num_drafts]` says which rows are drafts at all; None: every row is.
    """

    tokens: torch.Tensor
    confidences: torch.Tensor
    distribution: SparseDistribution | None = None
    answered: torch.Tensor | None = None


class Drafter(Protocol):
    """Whatever turns steps into drafts: the draft engine, or an oracle in tests."""

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        """Take in the features of several targets' steps and draft for them together.

        Returns one `DraftBatch` per batch, empty where no row has an anchor.
        """


class DraftSource(Protocol):
    """Where a target gets its drafts from: its own process or a drafter replica."""

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        """Drafts for a step, or None when there are none in time: plain decoding then."""

    def close(self) -> None:
        """Release what the source holds."""
