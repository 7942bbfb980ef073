"""Drafts as a source gave them: are they what a drafter may give, and what were they drawn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from drafters.messages import DraftBatch, SparseDistribution

_SUM_TOLERANCE = 1e-3  # how far from 1 the probabilities of a draft distribution may add up


def is_well_formed(drafts: DraftBatch, shape: tuple[int, int], vocab_size: int) -> bool:
    """Whether `drafts` are [num_drafts, block_size] of tokens, probabilities and a q.

    A token outside the vocabulary would take the engine down with it.
    """
    if drafts.tokens.shape != shape or drafts.confidences.shape != shape:
        return False
    tokens, confidences = drafts.tokens.numpy(force=True), drafts.confidences.numpy(force=True)
    if tokens.min() < 0 or tokens.max() >= vocab_size:
        return False
    if not (confidences.min() >= 0 and confidences.max() <= 1):  # also where one is NaN
        return False
    q = drafts.distribution
    if q is None:
        return True
    if q.token_ids.shape[:2] != shape or q.probs.shape != q.token_ids.shape:
        return False
    lowest, highest = q.token_ids.aminmax()
    sums_to_one = (q.probs.sum(-1) - 1).abs().max() < _SUM_TOLERANCE
    could_be_drawn = (q.prob_of(drafts.tokens) > 0).all()
    return bool(lowest >= 0 and highest < vocab_size and sums_to_one and could_be_drawn)


def one_hot(tokens: Sequence[int], width: int, device: torch.device) -> SparseDistribution:
    """All probability on each of `tokens`, [len(tokens), width]."""
    ids = torch.tensor(tokens, device=device).unsqueeze(-1).repeat(1, width)
    probs = torch.zeros(len(tokens), width, device=device)
    probs[:, 0] = 1.0
    return SparseDistribution(ids, probs)
