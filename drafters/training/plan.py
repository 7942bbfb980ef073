"""What decides a training run's result."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """Everything that decides what comes out. Two equal plans on one machine give one drafter.

    `kind` is one of `drafters.training.kinds.KINDS`; `num_layers` and `markov_rank` are of
    the kinds that have them. `start_from` is a trained drafter's directory to go on from with
    other text; None starts from the target's layers. Learning rate: linear warm-up, then a
    cosine down to a tenth. `autocast` runs matrix products in bfloat16. `held_out` rows of
    the data, all answers of the prompts that are drawn for it, are for evaluation only (see
    `drafters.training.data.split_held_out`). `position_decay` is in tokens: position k of a
    block counts exp(-(k - 1) / position_decay), None being the block size; Eagle3 and MTP
    have weights of their own. `cross_entropy_share` is DSpark's weight of cross-entropy, L1's
    being the rest: 0.1 in the paper; more of it helps greedy text.

    With `evaluate_every` steps, the held-out acceptance length is taken on the way, and the
    weights that had the longest come out. `patience` ends the run after so many evaluations
    without a longer one.

    A drafter sees the last `context_tokens` before an anchor, and a sequence's anchors lie
    within `anchor_span` tokens of each other (None: anywhere). With both, a drafter's cost
    per step has a bound whatever the length of the text.
    """

    target_dir: str
    data: str
    steps: int
    kind: str = "dspark"
    start_from: str | None = None
    num_layers: int = 2
    block_size: int = 7
    markov_rank: int = 64
    markov_head_type: str = "vanilla"
    target_layer_ids: tuple[int, ...] = (1, 4, 6)
    batch_size: int = 16
    num_anchors: int = 24
    anchor_span: int | None = None
    context_tokens: int | None = None
    max_tokens: int = 512
    position_decay: float | None = None
    cross_entropy_share: float = 0.1
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    held_out: int = 256
    evaluate_every: int | None = None
    patience: int | None = None
    seed: int = 0
    autocast: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError for settings that contradict each other."""
        if self.patience is not None and self.evaluate_every is None:
            raise ValueError("patience counts evaluations: it needs evaluate_every")

    def learning_rate_at(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        if step < self.warmup_steps:
            return self.learning_rate * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * done)))
