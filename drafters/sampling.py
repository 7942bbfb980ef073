"""How a draft token is chosen from the drafter's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.messages import SparseDistribution

NUM_CANDIDATES = 32


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

    def choose(self, logits: Tensor, temperatures: Tensor) -> tuple[Tensor, SparseDistribution]:
        """Tokens int64 [R] from `logits` [R, V] at `temperatures` float32 [R], and q [R, k].

        Rows at temperature 0 take the likeliest token; their q is one-hot.
        """
        top = logits.topk(min(self.num_candidates, logits.shape[-1]), dim=-1)
        sampled = (temperatures > 0).unsqueeze(-1)
        divisors = torch.where(sampled.squeeze(-1), temperatures, 1.0).unsqueeze(-1)
        probs = (top.values.float() / divisors).softmax(-1)
        first = torch.zeros_like(probs)
        first[:, 0] = 1.0
        probs = torch.where(sampled, probs, first)
        index = torch.multinomial(probs, 1, generator=self._generator)
        return top.indices.gather(-1, index).squeeze(-1), SparseDistribution(top.indices, probs)
