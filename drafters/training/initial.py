"""The drafter a run starts from."""

from __future__ import annotations

import torch

from drafters.checkpoint import random_drafter
from drafters.dspark import DSparkModel
from drafters.tensor_files import TARGET_TENSORS
from drafters.training.plan import TrainingPlan
from drafters.training.target import FrozenTarget


def new_drafter(plan: TrainingPlan, target: FrozenTarget) -> DSparkModel:
    """A drafter to train: embedding and LM head the target's, frozen.

    Its layers start as the target's last ones, its context as the last feature under that
    layer's input norm: a block then attends to what the target's own layer would have
    attended to. Heads and whatever else has no counterpart start random.
    """
    model = random_drafter(
        plan.target_dir,
        num_layers=plan.num_layers,
        block_size=plan.block_size,
        markov_rank=plan.markov_rank,
        target_layer_ids=plan.target_layer_ids,
        seed=plan.seed,
        dtype=torch.float32,
        device="cpu",
    )
    _start_from_target(model, target)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in TARGET_TENSORS)
    return model.train()


@torch.no_grad()
def _start_from_target(model: DSparkModel, target: FrozenTarget) -> None:
    theirs = target.state()
    config = model.config
    assert config.num_target_layers is not None
    first = config.num_target_layers - config.num_hidden_layers
    start = {
        f"layers.{i}.{name}": theirs.get(f"model.layers.{first + i}.{name}")
        for i, layer in enumerate(model.layers)
        for name in layer.state_dict()
    }
    last = f"model.layers.{config.num_target_layers - 1}"
    start["norm.weight"] = theirs.get("model.norm.weight")
    start["hidden_norm.weight"] = theirs.get(f"{last}.input_layernorm.weight")
    ours = model.state_dict()
    for name, weight in start.items():
        if weight is not None and weight.shape == ours[name].shape:
            ours[name].copy_(weight)
    d = config.hidden_size
    model.fc.weight[:, -d:] += torch.eye(d)
