"""DFlash (arXiv 2602.06036): a block at once, cross-entropy on the tokens that came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drafters.dspark import DSparkModel
from drafters.new_config import dspark_fields
from drafters.training.blocks import TrainingBlocks
from drafters.training.kinds.kind import (
    DraftReads,
    Predictions,
    TrainedKind,
    last_layers,
    layer_names,
    num_weights,
)
from drafters.training.losses import DraftDistances, decaying_weights
from drafters.training.parallel_blocks import parallel_hidden
from drafters.training.plan import TrainingPlan


class DFlash(TrainedKind[DSparkModel]):
    """The parallel backbone without heads."""

    def fields(self, plan: TrainingPlan) -> dict[str, Any]:
        return dspark_fields(
            plan.target_dir,
            num_layers=plan.num_layers,
            block_size=plan.block_size,
            markov_rank=0,
            target_layer_ids=plan.target_layer_ids,
        )

    def start(self, model: DSparkModel, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layers are the target's last, the context is the last feature under their norm.

        A block then attends to what the target's own layer would have attended to.
        """
        config = model.config
        weights = last_layers(config, target, layer_names(model))
        weights["norm.weight"] = target["norm.weight"]
        last = f"layers.{(config.num_target_layers or 0) - 1}.input_layernorm.weight"
        weights["hidden_norm.weight"] = target[last]
        fc = model.fc.weight.detach().clone()
        fc[:, -config.hidden_size :] += torch.eye(config.hidden_size)
        weights["fc.weight"] = fc
        return weights

    def hidden(self, model: DSparkModel, blocks: TrainingBlocks) -> Tensor:
        return parallel_hidden(model, blocks)

    def predict(self, model: DSparkModel, hidden: Tensor, previous: Tensor) -> Predictions:
        return Predictions(*model.heads(hidden, previous))

    def objective(self, distances: DraftDistances, plan: TrainingPlan) -> Tensor:
        return distances.cross_entropy

    def position_weights(self, plan: TrainingPlan) -> Tensor:
        return decaying_weights(plan.block_size, plan.position_decay or plan.block_size)

    def attention_keys(self, plan: TrainingPlan, context: float) -> float:
        return context + plan.num_anchors * plan.block_size

    def draft_reads(self, model: DSparkModel) -> DraftReads:
        return DraftReads(num_weights(model, without=("embed_tokens.",)), 0)
