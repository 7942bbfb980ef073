"""How a draft token is chosen from the drafter's logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from drafters.messages import SparseDistribution
from drafters.top_tokens import top_tokens

NUM_CANDIDATES = 32


class Choice(NamedTuple):
    """Tokens int64 [R], the distribution [R, k] they were drawn from, and, where it was asked
    for and is not all, the share float32 [R] of the whole distribution that the candidates hold."""

    tokens: Tensor
    distribution: SparseDistribution
    kept: Tensor | None


class DraftSampler:
    """Draws from the `num_candidates` likeliest tokens, and says from which probabilities.

    The truncated, renormalised distribution is the draft distribution q: verification
    against it is exact, and only its k entries have to travel. Uses a generator of its
    own: nothing here may move the random numbers of the engine's sampling.
    """

    def __init__(
        self, device: torch.device, *, num_candidates: int = NUM_CANDIDATES, seed: int | None = None
    ) -> None:
        """`seed` None draws one from the operating system."""
        self.num_candidates = num_candidates
        self._generator = torch.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def choose(self, logits: Tensor, temperatures: Tensor, *, with_kept: bool = False) -> Choice:
        """Choose from `logits` [R, V] at `temperatures` float32 [R].

        Rows at temperature 0 take the likeliest token: their distribution is one-hot, and
        nothing is lost of it.
        """
        values, candidates = top_tokens(logits, min(self.num_candidates, logits.shape[-1]))
        sampled = (temperatures > 0).unsqueeze(-1)
        divisors = torch.where(sampled.squeeze(-1), temperatures, 1.0).unsqueeze(-1)
        scaled = values.float() / divisors
        kept = None
        if with_kept and self.num_candidates < logits.shape[-1]:
            whole = (logits.float() / divisors).logsumexp(-1)
            share = (scaled.logsumexp(-1) - whole).exp_().clamp_(max=1.0)
            kept = torch.where(sampled.squeeze(-1), share, 1.0)
        probs = scaled.softmax(-1)
        first = torch.zeros_like(probs)
        first[:, 0] = 1.0
        probs = torch.where(sampled, probs, first)
        index = torch.multinomial(probs, 1, generator=self._generator)
        tokens = candidates.gather(-1, index).squeeze(-1)
        return Choice(tokens, SparseDistribution(candidates, probs), kept)
