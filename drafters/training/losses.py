"""The losses of the DSpark paper, over blocks whose true continuation is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

CE_WEIGHT = 0.1
L1_WEIGHT = 0.9
CONFIDENCE_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class DraftLosses:
    """Weighted means over all counted positions, and what drafting would have achieved.

    `total` is what is minimised. `acceptance_length` is the expected number of tokens a
    step commits when the target samples, 1 + sum over k of the product of (1 - L1_j / 2),
    `greedy_acceptance_length` the same with "both have the same first choice"; per block,
    without gradient.
    """

    total: Tensor
    cross_entropy: Tensor
    l1: Tensor
    confidence: Tensor
    acceptance_length: Tensor
    greedy_acceptance_length: Tensor


def position_weights(gamma: int) -> Tensor:
    """exp(-(k - 1) / gamma) for k = 1 .. gamma: early positions decide about later ones."""
    return torch.exp(-torch.arange(gamma, dtype=torch.float32) / gamma)


def draft_losses(
    logits: Tensor,
    confidence_logits: Tensor,
    target_logits: Tensor,
    labels: Tensor,
    counted: Tensor,
) -> DraftLosses:
    """Losses of N blocks.

    `logits` and `target_logits` are [N, gamma, V], `confidence_logits` [N, gamma],
    `labels` int64 [N, gamma] the tokens that came, `counted` bool [N, gamma] which
    positions exist (a prefix of each block). The confidence learns 1 - L1 / 2, the
    probability that a token drawn from q survives verification against p
    (Leviathan et al., 2023, section 3.2).
    """
    log_q = F.log_softmax(logits.float(), dim=-1)
    p = F.softmax(target_logits.float(), dim=-1)
    cross_entropy = -log_q.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    l1 = (p - log_q.exp()).abs().sum(-1)
    survival = (1 - l1.detach() / 2).clamp(0, 1)
    confidence = F.binary_cross_entropy_with_logits(
        confidence_logits.float(), survival, reduction="none"
    )
    weights = position_weights(logits.shape[1]).to(logits.device) * counted
    norm = weights.sum().clamp_min(1e-9)
    ce_mean, l1_mean, confidence_mean = (
        (weights * loss).sum() / norm for loss in (cross_entropy, l1, confidence)
    )
    total = CE_WEIGHT * ce_mean + L1_WEIGHT * l1_mean + CONFIDENCE_WEIGHT * confidence_mean
    with torch.no_grad():
        same = (logits.argmax(-1) == target_logits.argmax(-1)).float()
        blocks = counted.any(-1)
        length = _acceptance_lengths(survival * counted)[blocks].mean()
        greedy_length = _acceptance_lengths(same * counted)[blocks].mean()
    return DraftLosses(total, ce_mean, l1_mean, confidence_mean, length, greedy_length)


def _acceptance_lengths(rates: Tensor) -> Tensor:
    """Expected tokens per step [N] from acceptance rates [N, gamma] given the ones before."""
    return 1 + rates.cumprod(-1).sum(-1)
