"""A step-cost table, corrected by what steps in service take."""

from __future__ import annotations

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
        # Moving means of the table's cost x, the measured cost y, x * x and x * y.
        self._means = (0.0, 0.0, 0.0, 0.0)

    def record(self, n_tokens: int, step_s: float) -> None:
        """A step of `n_tokens` took `step_s`."""
        expected_s = self.table.at_one(n_tokens)
        self._num_steps += 1
        weight = max(_WEIGHT, 1 / self._num_steps)
        seen = (expected_s, step_s, expected_s * expected_s, expected_s * step_s)
        x, y, xx, xy = (m + weight * (s - m) for m, s in zip(self._means, seen, strict=True))
        self._means = (x, y, xx, xy)
        inertia = (_SPREAD * x) ** 2
        scale = (xy - x * y + inertia) / (xx - x * x + inertia)
        self.scale = min(max(scale, _SCALES[0]), _SCALES[1])
        self.overhead_s = y - self.scale * x

    def snapshot(self) -> dict[str, float]:
        """The correction: cost = scale x table + overhead_s."""
        return {"scale": round(self.scale, 3), "overhead_s": round(self.overhead_s, 6)}

    def at(self, n_tokens: int) -> float:
        """Seconds of a step of `n_tokens`."""
        least_s = _LEAST * self.table.step_cost_s[0]
        return max(self.scale * self.table.at_one(n_tokens) + self.overhead_s, least_s)
