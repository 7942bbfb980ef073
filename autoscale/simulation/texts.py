"""Texts that are easier and harder to draft for, the same for every policy.

Whether a draft token would be accepted is a property of the text and the position, drawn once:
policies are compared on common random numbers, and a position is not drawn anew because a
policy came to it by other steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.reliability import ece

_NUM_TEXTS = 64
_MEAN_LOGIT, _BETWEEN, _WITHIN = 1.6, 0.7, 1.3
_MEMORY_TOKENS = 12.0  # how long a stretch of easy or hard text is
_SUFFIX_DECAY = 0.15  # of the logit, per position in a draft


@dataclass(frozen=True, slots=True)
class Texts:
    """`confidences` float64 [texts, length, gamma] of a draft that starts at an output token,
    as the drafter reports them; `would_accept` int64 [texts, length], were all verified.

    An output longer than `length` goes on as its text began.
    """

    confidences: NDArray[np.float64]
    would_accept: NDArray[np.int64]

    @property
    def num_texts(self) -> int:
        return len(self.would_accept)

    @property
    def gamma(self) -> int:
        return int(self.confidences.shape[2])

    def places(self, first: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
        """[R], where drafts are that start at these output tokens of the texts that begin at the
        places `first`, int64 [R]."""
        return first + position % self._length

    def first_place(self, text: int) -> int:
        """Where the draft is that starts a text; texts are numbered over and over."""
        return text % self.num_texts * self._length

    def confidences_at(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """[R, gamma] of the drafts at `places` [R]."""
        return self.confidences.reshape(-1, self.gamma).take(places, axis=0)

    def would_accept_at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """[R] of the drafts at `places` [R]."""
        return self.would_accept.take(places)

    @property
    def _length(self) -> int:
        return int(self.would_accept.shape[1])

    @property
    def survival_ece(self) -> float:
        """How far the survival of the first two positions is off, of those reported."""
        survival = np.cumprod(self.confidences, axis=2, dtype=np.float64)
        return ece(survival[..., 1].ravel(), (self.would_accept >= 2).ravel())


def draw_texts(
    rng: np.random.Generator, length: int, gamma: int, *, overconfidence: float = 0.0
) -> Texts:
    """Texts of `length` output tokens; at 0 confidences are calibrated, above 0 too high.

    With `overconfidence` x a confidence is reported as sigmoid((1 + x) * logit + x).
    """
    steps = rng.normal(size=(_NUM_TEXTS, length + gamma))
    kept = np.exp(-1 / _MEMORY_TOKENS)
    within = np.empty_like(steps)
    within[:, 0] = steps[:, 0]
    for t in range(1, steps.shape[1]):
        within[:, t] = kept * within[:, t - 1] + np.sqrt(1 - kept**2) * steps[:, t]
    level = rng.normal(_MEAN_LOGIT, _BETWEEN, size=(_NUM_TEXTS, 1))
    by_position = np.lib.stride_tricks.sliding_window_view(level + _WITHIN * within, gamma, axis=1)
    logits = by_position[:, :length] - _SUFFIX_DECAY * np.arange(gamma)
    draws = np.lib.stride_tricks.sliding_window_view(rng.random(steps.shape), gamma, axis=1)
    accepted = draws[:, :length] < _sigmoid(logits)
    would_accept = np.cumprod(accepted, axis=2).sum(axis=2)
    reported = _sigmoid((1 + overconfidence) * logits + overconfidence)
    return Texts(np.ascontiguousarray(reported), np.ascontiguousarray(would_accept))


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-logits)))
