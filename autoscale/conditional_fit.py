"""Temperatures from label counts: the online fit, and how well temperatures explain labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.label_counts import BIN_LOGITS, FIT, HELD_OUT, LabelCounts

_GRID = np.geomspace(0.2, 5.0, 801)  # 0.4 % apart
_PREDICTED = 1 / (1 + np.exp(-BIN_LOGITS / _GRID[:, None]))  # [grid, bins]


class Comparison(NamedTuple):
    """By how much candidate temperatures explain held-out labels better than others.

    `gain` is the fall of the squared calibration error, summed over labels; `noise` its
    standard error.
    """

    gain: float
    noise: float

    @property
    def is_better(self) -> bool:
        """Beyond what chance brings about."""
        return self.gain > 3 * self.noise


def fit_conditional(
    counts: LabelCounts, current: Sequence[float], min_labels: int
) -> tuple[float, ...]:
    """Temperatures [gamma] with the least squared calibration error on the fit half.

    Positions with fewer than `min_labels` keep their `current` one. By the chain rule this
    calibrates survival from left to right, as sequential temperature scaling does.
    """
    reached, accepted = counts.reached[FIT], counts.accepted[FIT]  # [gamma, bins]
    # Sum of n (p - y / n)^2 without what does not depend on p.
    errors = _PREDICTED**2 @ reached.T - 2 * _PREDICTED @ accepted.T  # [grid, gamma]
    best = _GRID[errors.argmin(axis=0)]
    enough = counts.num_labels(FIT) >= min_labels
    return tuple(np.where(enough, best, current).tolist())


def compare(counts: LabelCounts, candidate: Sequence[float], other: Sequence[float]) -> Comparison:
    """Hold candidate temperatures against others on the held-out half."""
    reached, accepted = counts.reached[HELD_OUT], counts.accepted[HELD_OUT]
    ours, theirs = _predict(candidate), _predict(other)
    gain = ((theirs - ours) * ((theirs + ours) * reached - 2 * accepted)).sum()
    share = accepted / np.maximum(reached, 1e-12)
    variance = (4 * (theirs - ours) ** 2 * reached * share * (1 - share)).sum()
    return Comparison(float(gain), float(np.sqrt(variance)))


def _predict(temperatures: Sequence[float]) -> NDArray[np.float64]:
    """Calibrated confidences in the middle of every bin, [gamma, bins]."""
    predicted: NDArray[np.float64] = 1 / (1 + np.exp(-BIN_LOGITS / np.array(temperatures)[:, None]))
    return predicted
