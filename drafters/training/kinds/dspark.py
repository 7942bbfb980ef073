"""DSpark: DFlash's backbone with a Markov and a confidence head, near the whole distribution.

The losses of the DSpark paper: mostly L1, which is what acceptance depends on, some
cross-entropy, and the confidence head's.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from drafters.dspark import DSparkModel
from drafters.new_config import dspark_fields
from drafters.training.kinds.dflash import DFlash
from drafters.training.kinds.kind import DraftReads, num_weights
from drafters.training.losses import DraftDistances
from drafters.training.plan import TrainingPlan

CE_WEIGHT = 0.1
L1_WEIGHT = 0.9
CONFIDENCE_WEIGHT = 1.0


class DSpark(DFlash):
    """Starts as DFlash does, heads random."""

    def fields(self, plan: TrainingPlan) -> dict[str, Any]:
        return dspark_fields(
            plan.target_dir,
            num_layers=plan.num_layers,
            block_size=plan.block_size,
            markov_rank=plan.markov_rank,
            markov_head_type=plan.markov_head_type,
            target_layer_ids=plan.target_layer_ids,
        )

    def objective(self, distances: DraftDistances) -> Tensor:
        return (
            CE_WEIGHT * distances.cross_entropy
            + L1_WEIGHT * distances.l1
            + CONFIDENCE_WEIGHT * distances.confidence
        )

    def draft_reads(self, model: DSparkModel) -> DraftReads:
        """The Markov head's second matrix is read for every token."""
        parallel = num_weights(model, without=("embed_tokens.", "markov_head."))
        w1 = model.markov_head.markov_w1.weight.numel() if model.markov_head else 0
        everything = num_weights(model, without=("embed_tokens.",))
        return DraftReads(parallel, everything - parallel - w1)
