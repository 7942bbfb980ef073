"""MTP-1 (DeepSeek-V3, arXiv 2412.19437, section 2.2): the token after the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafters.new_config import mtp_fields
from drafters.paired import MTPModel
from drafters.training.blocks import TrainingBlocks
from drafters.training.kinds.kind import (
    DraftReads,
    Predictions,
    TrainedKind,
    last_layers,
    layer_names,
    num_weights,
)
from drafters.training.losses import DraftDistances
from drafters.training.plan import TrainingPlan
from drafters.training.unrolled_steps import unrolled_hidden, unrolled_keys


class MTP(TrainedKind[MTPModel]):
    """Cross-entropy on the tokens that came.

    With a block size above 1 the module is unrolled on its own output, each step counting
    the same, as the depths of section 2.2 do.
    """

    default_block_size = 1

    def target_layer_ids(
        self, target_dir: str | Path, chosen: Sequence[int] | None
    ) -> tuple[int, ...]:
        """The last layer's, whatever is chosen, as the layout has it."""
        return tuple(mtp_fields(target_dir, block_size=1)["target_layer_ids"])

    def fields(self, plan: TrainingPlan) -> dict[str, Any]:
        return mtp_fields(plan.target_dir, block_size=plan.block_size)

    def start(self, model: MTPModel, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layer is the target's last, its input the hidden state and a little embedding."""
        size = model.config.hidden_size
        weights = last_layers(model.config, target, layer_names(model))
        weights["norm.weight"] = target["norm.weight"]
        projection = model.eh_proj.weight.detach().clone()
        projection[:, size:] += torch.eye(size)
        weights["eh_proj.weight"] = projection
        return weights

    def hidden(self, model: MTPModel, blocks: TrainingBlocks) -> Tensor:
        return unrolled_hidden(model, blocks)

    def predict(self, model: MTPModel, hidden: Tensor, previous: Tensor) -> Predictions:
        return Predictions(model.logits(hidden))

    def objective(self, distances: DraftDistances, plan: TrainingPlan) -> Tensor:
        return distances.cross_entropy

    def position_weights(self, plan: TrainingPlan) -> Tensor:
        return torch.ones(plan.block_size)

    def attention_keys(self, plan: TrainingPlan, context: float) -> float:
        return unrolled_keys(plan, context)

    def draft_reads(self, model: MTPModel) -> DraftReads:
        return DraftReads(0, num_weights(model, without=("embed_tokens.",)))
