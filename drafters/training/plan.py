"""What decides a training run's result."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides what comes out. Two equal plans on one machine give one drafter.

    Learning rate: linear warm-up, then a cosine down to a tenth. `autocast` runs matrix
    products in bfloat16. The last `held_out` rows of the data are for evaluation only.
    """

    target_dir: str
    data: str
    steps: int
    num_layers: int = 2
    block_size: int = 7
    markov_rank: int = 64
    target_layer_ids: tuple[int, ...] = (1, 4, 6)
    batch_size: int = 16
    num_anchors: int = 24
    max_tokens: int = 512
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    held_out: int = 256
    seed: int = 0
    autocast: bool = True

    def learning_rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
