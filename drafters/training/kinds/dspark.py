"""DSpark: DFlash's backbone with a Markov and a confidence head, near the whole distribution.

The losses of the DSpark paper: L1, which is what acceptance depends on, and cross-entropy,
`TrainingPlan.cross_entropy_share` of the two, and the confidence head's.
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

    def objective(self, distances: DraftDistances, plan: TrainingPlan) -> Tensor:
        share = plan.cross_entropy_share
        return (
            share * distances.cross_entropy
            + (1 - share) * distances.l1
            + CONFIDENCE_WEIGHT * distances.confidence
        )

    def draft_reads(self, model: DSparkModel) -> DraftReads:
        """The Markov head's second matrix is read for every token."""
        parallel = num_weights(model, without=("embed_tokens.", "markov_head."))
        w1 = model.markov_head.markov_w1.weight.numel() if model.markov_head else 0
        everything = num_weights(model, without=("embed_tokens.",))
        return DraftReads(parallel, everything - parallel - w1)
