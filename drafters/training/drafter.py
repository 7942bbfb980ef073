"""The drafter in training: how a run starts, and what a batch says about its weights."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from drafters.checkpoint import load_drafter, random_model
from drafters.errors import CheckpointError
from drafters.module import DrafterModule
from drafters.tensor_files import TARGET_TENSORS
from drafters.training.blocks import block_labels, counted_positions, training_blocks
from drafters.training.data import Batch
from drafters.training.kinds import KINDS, TrainedKind
from drafters.training.losses import DraftDistances, DraftLosses, draft_losses
from drafters.training.plan import TrainingPlan
from drafters.training.target import FrozenTarget, TargetStates


def new_drafter(plan: TrainingPlan, target: FrozenTarget) -> DrafterModule:
    """A drafter to train: embedding and LM head the target's, frozen. Raises CheckpointError.

    Its layers start as the target's last ones, and what has no counterpart there random; or
    all of it as in the drafter that the plan starts from.
    """
    kind = KINDS[plan.kind]
    model = random_model(
        kind.fields(plan), plan.target_dir, seed=plan.seed, dtype=torch.float32, device="cpu"
    )
    ours = model.state_dict()
    with torch.no_grad():
        for name, weight in _starting_weights(plan, kind, model, target).items():
            if name in ours and weight.shape == ours[name].shape:
                ours[name].copy_(weight)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in TARGET_TENSORS)
    return model.to(target.device).train()


def _starting_weights(
    plan: TrainingPlan, kind: TrainedKind[Any], model: DrafterModule, target: FrozenTarget
) -> dict[str, Tensor]:
    if plan.start_from is None:
        theirs = {name: weight.cpu().float() for name, weight in target.decoder_state().items()}
        return kind.start(model, theirs)
    trained = load_drafter(
        plan.start_from, dtype=torch.float32, device="cpu", target_dir=plan.target_dir
    )
    for field in fields(model.config):
        found, needed = (getattr(m.config, field.name, None) for m in (trained, model))
        if found != needed and field.name != "source":
            raise CheckpointError(
                f"{plan.start_from}: {field.name} is {found!r}, the drafter to be trained has "
                f"{needed!r}; give the settings it was trained with"
            )
    assert isinstance(trained, DrafterModule)
    return trained_state(trained)


def trained_state(model: DrafterModule) -> dict[str, Tensor]:
    """The weights that training changes: all but those shared with the target."""
    return {k: v for k, v in model.state_dict().items() if k not in TARGET_TENSORS}


def batch_losses(
    model: DrafterModule,
    target: FrozenTarget,
    batch: Batch,
    plan: TrainingPlan,
    states: TargetStates | None = None,
) -> DraftLosses:
    """Losses of all blocks of a batch, packed; `states` where the target's are known."""
    kind: TrainedKind[DrafterModule] = KINDS[plan.kind]
    if states is None:
        states = target.read(batch.tokens)
    features = states.features.to(model.dtype)
    blocks = training_blocks(batch, features, plan.block_size, plan.context_tokens)
    labels = block_labels(batch, states, plan.block_size)
    said = kind.predict(model, blocks, labels.exists)
    distances = DraftDistances(
        said.logits,
        target.logits(labels.target_hidden),
        labels.tokens,
        said.confidence_logits,
    )
    weights = kind.position_weights(plan).to(model.device)
    return draft_losses(kind.objective(distances), distances, weights, labels.counted)


def batch_weight(batch: Batch, plan: TrainingPlan) -> Tensor:
    """What a batch's `DraftLosses.weight` is going to be."""
    weights = KINDS[plan.kind].position_weights(plan)
    return (weights * counted_positions(batch, plan.block_size)).sum()
