"""How far a draft is from its target, over blocks whose true continuation is known.

Each kind of drafter minimises its own mixture of these distances; all of them are reported
with the acceptance length that they would have led to.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor


class DraftDistances:
    """Distances of N blocks position by position, each float32 [N, gamma].

    `logits` and `target_logits` are [N, gamma, V], `labels` int64 [N, gamma] the tokens that
    came, `confidence_logits` [N, gamma] None without a confidence head.
    """

    def __init__(
        self,
        logits: Tensor,
        target_logits: Tensor,
        labels: Tensor,
        confidence_logits: Tensor | None = None,
    ) -> None:
        self._log_q = F.log_softmax(logits.float(), dim=-1)
        self._p = F.softmax(target_logits.float(), dim=-1)
        self._labels = labels
        self._confidence_logits = confidence_logits

    @cached_property
    def cross_entropy(self) -> Tensor:
        """-log q of the token that came."""
        return -self._log_q.gather(-1, self._labels.unsqueeze(-1)).squeeze(-1)

    @cached_property
    def soft_cross_entropy(self) -> Tensor:
        """-sum of p log q over the vocabulary."""
        return -(self._p * self._log_q).sum(-1)

    @cached_property
    def l1(self) -> Tensor:
        """Sum of |p - q|, twice the total variation."""
        return (self._p - self._log_q.exp()).abs().sum(-1)

    @cached_property
    def survival(self) -> Tensor:
        """1 - L1 / 2 without gradient: the probability that a token drawn from q survives
        verification against p (Leviathan et al., 2023, section 3.2)."""
        return (1 - self.l1.detach() / 2).clamp(0, 1)

    @cached_property
    def confidence(self) -> Tensor:
        """Binary cross-entropy of the confidence head against `survival`, 0 without one."""
        if self._confidence_logits is None:
            return torch.zeros_like(self.survival)
        return F.binary_cross_entropy_with_logits(
            self._confidence_logits.float(), self.survival, reduction="none"
        )

    @cached_property
    def same_choice(self) -> Tensor:
        """1.0 where p and q have the same likeliest token."""
        return (self._log_q.argmax(-1) == self._p.argmax(-1)).float()


@dataclass(frozen=True, slots=True)
class DraftLosses:
    """Sums over counted positions, those over blocks, and what to divide them by.

    `total` is what is minimised. It, `cross_entropy`, `l1` and `confidence` are sums weighted
    as the kind of drafter weighs positions, and belong over `weight`. `acceptance_length` is
    the expected number of tokens a step commits when the target samples, 1 + sum over k of
    the product of (1 - L1_j / 2), `greedy_acceptance_length` the same with "both have the
    same first choice"; these two are sums over `blocks`.
    """

    total: Tensor
    cross_entropy: Tensor
    l1: Tensor
    confidence: Tensor
    acceptance_length: Tensor
    greedy_acceptance_length: Tensor
    weight: Tensor
    blocks: Tensor

    def __add__(self, other: DraftLosses) -> DraftLosses:
        return DraftLosses(*(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @staticmethod
    def none(device: torch.device) -> DraftLosses:
        """Of no blocks."""
        return DraftLosses(*(torch.zeros((), device=device) for _ in fields(DraftLosses)))

    @property
    def sums(self) -> list[Tensor]:
        """All of them, to be added up in place."""
        return [getattr(self, f.name) for f in fields(self)]

    def detached(self) -> DraftLosses:
        """Without gradients."""
        return DraftLosses(*(tensor.detach() for tensor in self.sums))

    def means(self) -> dict[str, float]:
        """Means by name: over weights, of acceptance lengths over blocks."""
        weight = max(self.weight.item(), 1e-9)
        blocks = max(self.blocks.item(), 1)
        return {
            name: getattr(self, name).item() / (blocks if "acceptance" in name else weight)
            for name in (f.name for f in fields(self))
            if name not in ("weight", "blocks")
        }


def draft_losses(
    objective: Tensor, distances: DraftDistances, weights: Tensor, counted: Tensor
) -> DraftLosses:
    """Sums of N blocks: `objective` [N, gamma] is minimised, under `weights` [gamma].

    `counted` bool [N, gamma] says which positions exist, a prefix of each block.
    """
    counting = weights * counted

    def summed(values: Tensor) -> Tensor:
        return (counting * values).sum()

    with torch.no_grad():
        cross_entropy, l1 = summed(distances.cross_entropy), summed(distances.l1)
        confidence = summed(distances.confidence)
        blocks = counted.any(-1)
        length = _acceptance_lengths(distances.survival * counted)[blocks].sum()
        greedy_length = _acceptance_lengths(distances.same_choice * counted)[blocks].sum()
    return DraftLosses(
        summed(objective),
        cross_entropy,
        l1,
        confidence,
        length,
        greedy_length,
        counting.sum(),
        blocks.sum().float(),
    )


def decaying_weights(num_positions: int, decay_tokens: float) -> Tensor:
    """exp(-(k - 1) / decay) for k = 1 .. num_positions: early positions decide about later."""
    return torch.exp(-torch.arange(num_positions, dtype=torch.float32) / decay_tokens)


def _acceptance_lengths(rates: Tensor) -> Tensor:
    """Expected tokens per step [N] from acceptance rates [N, gamma] given the ones before."""
    return 1 + rates.cumprod(-1).sum(-1)
