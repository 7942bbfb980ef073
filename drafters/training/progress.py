"""A moving picture of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Progress:
    """Moving averages over some twenty steps, and totals.

    `positions` are those of blocks that losses were taken at, `tokens` those of the texts
    that the target read. `evaluations` are held-out acceptance lengths, in order.
    """

    loss: float = float("nan")
    acceptance_length: float = float("nan")
    seconds: float = 0.0
    tokens: int = 0
    positions: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_evaluation(self) -> int | None:
        """Which evaluation had the longest acceptance length, the first of equals."""
        lengths = [evaluation["acceptance_length"] for evaluation in self.evaluations]
        return lengths.index(max(lengths)) if lengths else None

    @property
    def is_at_best(self) -> bool:
        """Whether the last evaluation is the best."""
        return bool(self.evaluations) and self.best_evaluation == len(self.evaluations) - 1

    def has_stalled(self, patience: int | None) -> bool:
        """Whether `patience` evaluations have followed the best."""
        if patience is None or self.best_evaluation is None:
            return False
        return len(self.evaluations) - 1 - self.best_evaluation >= patience

    def add(self, means: dict[str, float]) -> None:
        """Take in a step's mean losses."""
        self.loss = _moved(self.loss, means["total"])
        self.acceptance_length = _moved(self.acceptance_length, means["acceptance_length"])

    def note(self, step: int) -> None:
        """Keep the averages as they are at `step`."""
        self.history.append(
            {"step": step, "loss": self.loss, "acceptance_length": self.acceptance_length}
        )


def _moved(average: float, value: float) -> float:
    return value if math.isnan(average) else 0.95 * average + 0.05 * value
