"""Sequential temperature scaling (DSpark paper, section 3.2.1): the offline fit.

Where a scheduler censored the labels, the fit stays unbiased as long as survival follows from
the confidences up to a position. What it does not know: if a later confidence betrays that an
earlier token was rejected, temperatures fit the drafts that were admitted, not all of them.
Exploration narrows that gap, and an evaluation that verifies every draft in full closes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import scaled
from profiles.labels import survival_labels
from profiles.reliability import ece

_RANGE = (0.2, 5.0)
_COARSE, _FINE, _REFINEMENTS = 17, 9, 3  # points of the search, to 0.3 % of a temperature
_NUM_GROUPS = 20
_MIN_LABELS = 100  # of a position, before it gets a temperature of its own


def fit_temperatures(
    confidences: NDArray[np.float64],
    num_admitted: NDArray[np.int64],
    num_accepted: NDArray[np.int64],
    otherwise: Sequence[float] | None = None,
) -> NDArray[np.float64]:
    """Temperatures [gamma] from uncalibrated `confidences` [N, gamma] and outcomes [N].

    Position by position, the temperature is searched that minimises the calibration error of
    predicted survival, the product of calibrated confidences, earlier ones fixed. Positions with
    fewer than 100 labels are not fitted: they get those of `otherwise`, what serves until now
    (default: 1 everywhere). Where the search leaves a position's ECE larger than `otherwise`
    does, it is repeated on the ECE itself.

    On what is fitted here, the ECE averaged over all positions that have a label, also those
    with too few of them, is never larger than with `otherwise`: where it would be, `otherwise`
    is returned whole. A single position's may be larger.
    """
    num_drafts, block_size = confidences.shape
    labels = survival_labels(num_admitted, num_accepted, block_size)
    serving = np.ones(block_size) if otherwise is None else np.array(otherwise, dtype=np.float64)
    temperatures = serving.copy()
    served, calibrated = np.ones(num_drafts), np.ones(num_drafts)  # survival before position k
    gained = 0.0
    for k in range(block_size):
        own = confidences[:, k]
        served = served * _at(own, serving[k])
        rows = labels.counts[:, k]
        if rows.any():
            position = _Position(calibrated[rows], own[rows], labels.survived[rows, k])
            without = ece(served[rows], position.survived)
            if len(position.survived) >= _MIN_LABELS:
                temperatures[k] = position.fit(at_most=without)
            gained += without - position.ece(temperatures[k])
        calibrated = calibrated * _at(own, temperatures[k])
    return temperatures if gained >= 0 else serving


class _Position:
    """The search at one position: survival before it, its confidence, what survived it."""

    def __init__(
        self,
        before: NDArray[np.float64],
        own: NDArray[np.float64],
        survived: NDArray[np.bool_],
    ) -> None:
        self.survived = survived
        self._before = before
        self._own = own
        # Groups of like confidence hold still while the temperature moves. The error over
        # them is smooth: its minimum needs a quarter of the labels that the ECE's needs.
        edges = np.quantile(own, np.linspace(0, 1, _NUM_GROUPS + 1)[1:-1])
        self._group = np.searchsorted(edges, own, side="right")
        self._mass = np.maximum(np.bincount(self._group, minlength=_NUM_GROUPS), 1)

    def fit(self, at_most: float) -> float:
        """The best temperature; by the ECE itself, where the smooth error's has a larger one
        than `at_most`."""
        temperature = _search(self.group_error)
        return temperature if self.ece(temperature) <= at_most else _search(self.ece)

    def group_error(self, temperature: float) -> float:
        """Squared calibration error of survival over groups of like confidence."""
        gaps = self._before * _at(self._own, temperature) - self.survived
        return float((np.bincount(self._group, gaps, _NUM_GROUPS) ** 2 / self._mass).sum())

    def ece(self, temperature: float) -> float:
        return ece(self._before * _at(self._own, temperature), self.survived)


def _search(error: Callable[[float], float]) -> float:
    """Where `error` is least: a grid, then finer ones around its best point. 1 wins ties."""
    grid = np.geomspace(*_RANGE, _COARSE)  # its middle is 1
    best, least = 1.0, error(1.0)
    for _ in range(1 + _REFINEMENTS):
        for temperature in grid.tolist():
            found = error(temperature)
            if found < least:
                best, least = temperature, found
        step = (grid[1] / grid[0]) ** 0.999  # just inside the neighbours, already tried
        grid = np.geomspace(max(best / step, _RANGE[0]), min(best * step, _RANGE[1]), _FINE)
    return best


def _at(confidences: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Calibrated by one temperature; exactly itself at 1."""
    return confidences if temperature == 1.0 else scaled(confidences, np.array(1 / temperature))
