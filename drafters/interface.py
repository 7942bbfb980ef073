"""What the draft engine asks of a drafter, whichever kind it is.

A `DraftModel` holds the weights under their checkpoint names; its `serving` form is what
the engine drives: rows of features become context, and blocks are drafted from context.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from drafters.config import DrafterConfig
from drafters.messages import SparseDistribution
from drafters.sampling import DraftSampler


@dataclass(frozen=True, slots=True)
class ContextLayout:
    """What is kept of one context position: K and V, each [num_layers, num_heads, head_dim].

    `lag` is how far behind its feature row a row is kept. Context is named and shared by
    the hash of all tokens up to a block's end, so what depends on features i alone lies at
    position i (lag 0), and what depends on token i + 1 too lies at i + 1 (lag 1).
    """

    num_layers: int
    num_heads: int
    head_dim: int
    dtype: torch.dtype
    lag: int = 0

    @property
    def bytes_per_token(self) -> int:
        """Of K and V together."""
        return 2 * self.num_layers * self.num_heads * self.head_dim * self.dtype.itemsize


class ContextRows(NamedTuple):
    """N new feature rows [N, F] at `positions` int64 [N].

    `next_tokens` int64 [N] are the tokens at the positions after them, where the drafter
    needs them.
    """

    features: Tensor
    positions: Tensor
    next_tokens: Tensor | None = None


class Context(NamedTuple):
    """K and V of N rows, each [L, N, heads, head_dim].

    `hidden` [N, d] is what a draft starts from that follows one of these rows; None where
    it needs nothing but context.
    """

    k: Tensor
    v: Tensor
    hidden: Tensor | None = None


@dataclass(frozen=True, slots=True)
class DraftInputs:
    """R blocks to draft.

    `anchors` and `starts` (their positions) are int64 [R]. The context of positions below
    `starts` is `context_k` and `context_v` [L, R, C, heads, head_dim] with `context_mask`
    bool [R, C]; C may be 0 and a row's mask entirely False. `hidden` [R, d] is
    `Context.hidden` of the row before each anchor, None where no row has any. With a
    `sampler`, tokens are drawn at `temperatures` float32 [R], otherwise they are the
    likeliest.
    """

    anchors: Tensor
    starts: Tensor
    context_k: Tensor
    context_v: Tensor
    context_mask: Tensor
    hidden: Tensor | None = None
    temperatures: Tensor | None = None
    sampler: DraftSampler | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """Drafts of R blocks and, when asked for, the logits behind them.

    `tokens` int64 and `confidences` float32 are [R, gamma]. `hidden` [R, gamma, d] are the
    hidden states they come from, None in a drafter without. `logits` [R, gamma, V] are
    final, of the draft vocabulary; `confidence_logits` are float32 [R, gamma], None without
    a confidence head. `distribution` [R, gamma, k] is what sampled tokens were drawn from,
    None when all were the likeliest ones.
    """

    tokens: Tensor
    confidences: Tensor
    hidden: Tensor | None = None
    logits: Tensor | None = None
    confidence_logits: Tensor | None = None
    distribution: SparseDistribution | None = None


class ServedModel(Protocol):
    """A drafter as the engine drives it. Runs under `torch.inference_mode`."""

    @property
    def layout(self) -> ContextLayout:
        """How its context is stored."""

    def context(self, rows: ContextRows) -> Context:
        """Rows as context. A row's K and V depend on nothing but that row."""

    def draft(self, inputs: DraftInputs, *, with_logits: bool = False) -> Draft:
        """Draft all blocks together."""


class DraftModel(Protocol):
    """A loaded drafter."""

    @property
    def config(self) -> DrafterConfig:
        """What it is."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the features it takes in."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    def serving(self) -> ServedModel:
        """Its form for the engine; later changes to the weights may not be seen."""
