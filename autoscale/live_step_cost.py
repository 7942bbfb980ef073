"""A step-cost table, corrected by what steps in service take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoscale.step_cost import StepCostTable

_WEIGHT = 0.02  # of a new step, once there are some
_SPREAD = 0.1  # of the mean cost: with less spread than this, the scale stays near 1
_SCALES = (0.25, 4.0)
_LEAST = 0.2  # of the table's first cost: no step is believed to take less


class LiveStepCost:
    """Seconds of a step: `scale` x table + `overhead_s`, fitted while serving.

    The table knows the forward pass alone, as it was when the engine started, perhaps beside
    other engines that started too. Scheduling, sampling and output come on top. Both numbers
    are a least-squares fit over the recent steps, its scale drawn towards 1 where their
    costs hardly differ.
    """

    def __init__(self, table: StepCostTable) -> None:
        self.table = table
        self.scale = 1.0
        self.overhead_s = 0.0
        self._num_steps = 0
        # Moving means of the table's cost x and the measured cost y, of x * x and of x * y.
        self._means = np.zeros(4)

    def record(self, n_tokens: int, step_s: float) -> None:
        """A step of `n_tokens` took `step_s`."""
        expected_s = float(self.table.at(np.array(n_tokens)))
        self._num_steps += 1
        weight = max(_WEIGHT, 1 / self._num_steps)
        seen = np.array([expected_s, step_s, expected_s * expected_s, expected_s * step_s])
        self._means += weight * (seen - self._means)
        x, y, xx, xy = self._means.tolist()
        inertia = (_SPREAD * x) ** 2
        scale = (xy - x * y + inertia) / (xx - x * x + inertia)
        self.scale = min(max(scale, _SCALES[0]), _SCALES[1])
        self.overhead_s = y - self.scale * x

    def snapshot(self) -> dict[str, float]:
        """The correction: cost = scale x table + overhead_s."""
        return {"scale": round(self.scale, 3), "overhead_s": round(self.overhead_s, 6)}

    def at(self, n_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of steps of `n_tokens`, any shape."""
        least_s = _LEAST * self.table.step_cost_s[0]
        return np.maximum(self.scale * self.table.at(n_tokens) + self.overhead_s, least_s)
