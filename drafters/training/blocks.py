"""The blocks a batch is trained on: what each sees, and what it should have said.

A sequence's context is turned into keys and values once, for the blocks of all its anchors;
masks let each block see what it would see alone. Of a text only the stretch that some
anchor sees is taken, so with a bounded context and a bounded span of anchors a drafter's
cost does not grow with the text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from drafters.training.data import Batch
from drafters.training.target import TargetStates


@dataclass(frozen=True, slots=True)
class TrainingBlocks:
    """n blocks of each of B sequences.

    `anchors` int64 [B, n] are positions; `tokens` int64 [B, n, gamma] are the anchor and
    what came after it, each the token before the one its slot predicts. The context of C
    positions is `features` [B, C, F] with `positions` int64 [B, C] and `next_tokens` int64
    [B, C], the tokens at the positions after them; `visible` bool [B, n, C] says what an
    anchor sees of it.
    """

    anchors: Tensor
    tokens: Tensor
    features: Tensor
    positions: Tensor
    next_tokens: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True)
class BlockLabels:
    """What the N blocks that exist should have said.

    `exists` bool [B, n] are those blocks. `tokens` int64 [N, gamma] came; `counted` bool
    [N, gamma] are the positions within the text; `target_hidden` [N, gamma, d] is what the
    target's LM head reads where it says these tokens.
    """

    exists: Tensor
    tokens: Tensor
    counted: Tensor
    target_hidden: Tensor


def counted_positions(batch: Batch, block_size: int) -> Tensor:
    """Which positions of a batch's blocks exist, bool [B, n, gamma]."""
    predicted = batch.anchors.unsqueeze(-1) + _slots(batch.anchors, block_size) + 1
    return (batch.anchors >= 0).unsqueeze(-1) & (predicted < batch.lengths[:, None, None])


def training_blocks(
    batch: Batch, features: Tensor, block_size: int, context_tokens: int | None
) -> TrainingBlocks:
    """The blocks of a batch over the target's `features` [B, T, F].

    Anchors that do not exist are given their row's first.
    """
    anchors = _filled(batch.anchors)
    last = batch.tokens.shape[1] - 1
    window = last + 1 if context_tokens is None else context_tokens
    starts = (anchors.amin(1) - window).clamp_min(0)
    length = int((anchors.amax(1) - starts).max())
    positions = starts.unsqueeze(1) + torch.arange(length, device=anchors.device)
    inside = positions.clamp(max=last)
    relative = anchors.unsqueeze(-1) - positions.unsqueeze(1)  # [B, n, C], 1 just before
    slots = anchors.unsqueeze(-1) + _slots(anchors, block_size)
    return TrainingBlocks(
        anchors=anchors,
        tokens=_at(batch.tokens, slots.clamp(max=last)),
        features=_at(features, inside),
        positions=positions,
        next_tokens=_at(batch.tokens, (positions + 1).clamp(max=last)),
        visible=(relative > 0) & (relative <= window),
    )


def block_labels(batch: Batch, states: TargetStates, block_size: int) -> BlockLabels:
    """The labels of a batch's blocks."""
    exists = batch.anchors >= 0
    last = batch.tokens.shape[1] - 1
    slots = _filled(batch.anchors).unsqueeze(-1) + _slots(batch.anchors, block_size)
    return BlockLabels(
        exists,
        _at(batch.tokens, (slots + 1).clamp(max=last))[exists],
        counted_positions(batch, block_size)[exists],
        _at(states.last_hidden, slots.clamp(max=last))[exists],
    )


def _filled(anchors: Tensor) -> Tensor:
    return torch.where(anchors >= 0, anchors, anchors[:, :1])


def _slots(anchors: Tensor, block_size: int) -> Tensor:
    return torch.arange(block_size, device=anchors.device)


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """`values` [B, T, ...] at `positions` [B, ...]."""
    rows = torch.arange(len(values), device=values.device)
    return values[rows.view(-1, *[1] * (positions.dim() - 1)), positions]
