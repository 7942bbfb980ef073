"""Drafts whose confidences have known temperatures, and a scheduler that censors them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.schedule import causal_lengths, token_worth
from autoscale.step_cost import CostCurve, StepCostTable, verify_cost_s

TRUE = (1.3, 0.8, 1.6, 1.1, 1.8)
GAMMA = len(TRUE)
_BATCH = 16
_COST = CostCurve(StepCostTable((1, 256), (0.010, 0.026)))


class Drafts(NamedTuple):
    """`confidences` [N, gamma] uncalibrated; `would_accept` [N] tokens, were all verified."""

    confidences: NDArray[np.float64]
    would_accept: NDArray[np.int64]

    @property
    def all_admitted(self) -> NDArray[np.int64]:
        return np.full(len(self.confidences), self.confidences.shape[1])


def draw(
    rng: np.random.Generator,
    num_drafts: int,
    temperatures: Sequence[float] = TRUE,
    *,
    mean: float = 2.0,
    betrayal: float = 0.0,
) -> Drafts:
    """A token is accepted with sigmoid(logit / t), given those before it.

    Confidences of a draft are alike: some drafts are easy. With `betrayal` the logits after
    a rejected token are lower by so much: they tell of a rejection that already happened.
    """
    gamma = len(temperatures)
    easy = rng.normal(0, 0.7, size=(num_drafts, 1))
    logits = rng.normal(mean, 2.0, size=(num_drafts, gamma)) + easy
    draws = rng.random(size=(num_drafts, gamma))
    alive = np.ones(num_drafts, dtype=bool)
    would_accept = np.zeros(num_drafts, dtype=np.int64)
    for k, temperature in enumerate(temperatures):
        logits[:, k] -= betrayal * ~alive
        alive &= draws[:, k] < 1 / (1 + np.exp(-logits[:, k] / temperature))
        would_accept += alive
    return Drafts(1 / (1 + np.exp(-logits)), would_accept)


def admit_causally(confidences: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """What the causal schedule admits of drafts [N, gamma] in batches of 16, int64 [N].

    The load, requests without drafts beside them, differs from step to step.
    """
    limits = np.full(_BATCH, confidences.shape[1])
    lengths = []
    for batch in np.split(confidences, len(confidences) // _BATCH):
        num_requests = _BATCH + int(rng.integers(0, 60))
        worth = token_worth(batch, limits)
        cost_s = verify_cost_s(_COST, num_requests, worth.size)
        lengths.append(causal_lengths(worth, num_requests, cost_s))
    return np.concatenate(lengths)
