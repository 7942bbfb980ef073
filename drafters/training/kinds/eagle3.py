"""Eagle3 (arXiv 2503.01840): one layer of pairs, trained as it drafts, on its own states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from drafters.new_config import eagle3_fields
from drafters.paired import Eagle3Model
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

STEP_DECAY = 0.8


class Eagle3(TrainedKind[Eagle3Model]):
    """Soft cross-entropy against the target's distribution, later steps counting less."""

    def fields(self, plan: TrainingPlan) -> dict[str, Any]:
        return eagle3_fields(
            plan.target_dir, block_size=plan.block_size, target_layer_ids=plan.target_layer_ids
        )

    def start(self, model: Eagle3Model, target: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The layer is the target's last; its attention reads the hidden state as that does.

        The halves of q, k and v that read the token's embedding stay random.
        """
        config = model.config
        size = config.hidden_size
        weights = last_layers(config, target, layer_names(model))
        ours = model.state_dict()
        for name in ("q_proj", "k_proj", "v_proj"):
            full = f"layers.0.self_attn.{name}.weight"
            if full in weights and full in ours:
                joined = ours[full].clone()
                joined[:, size:] = weights[full]
                weights[full] = joined
        last = "layers.0.input_layernorm.weight"
        weights["layers.0.hidden_norm.weight"] = weights.pop(last)
        weights["norm.weight"] = target["norm.weight"]
        fc = model.fc.weight.detach().clone()
        fc[:, -size:] += torch.eye(size)
        weights["fc.weight"] = fc
        return weights

    def hidden(self, model: Eagle3Model, blocks: TrainingBlocks) -> Tensor:
        return unrolled_hidden(model, blocks)

    def predict(self, model: Eagle3Model, hidden: Tensor, previous: Tensor) -> Predictions:
        return Predictions(model.logits(hidden))

    def objective(self, distances: DraftDistances, plan: TrainingPlan) -> Tensor:
        return distances.soft_cross_entropy

    def position_weights(self, plan: TrainingPlan) -> Tensor:
        return STEP_DECAY ** torch.arange(plan.block_size, dtype=torch.float32)

    def attention_keys(self, plan: TrainingPlan, context: float) -> float:
        return unrolled_keys(plan, context)

    def draft_reads(self, model: Eagle3Model) -> DraftReads:
        serial = num_weights(model, without=("embed_tokens.", "fc."))
        return DraftReads(model.fc.weight.numel(), serial)
