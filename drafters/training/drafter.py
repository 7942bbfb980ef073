"""The drafter in training: how a run starts, and what a batch says about its weights."""

from __future__ import annotations

from dataclasses import fields, replace
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

NUMBERS_PER_CHUNK = 1 << 26  # a quarter of a GiB of float32


def new_drafter(plan: TrainingPlan, target: FrozenTarget) -> DrafterModule:
    """A drafter to train: embedding and LM head are the very tensors of the target, frozen.
    Raises CheckpointError.

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
    model.requires_grad_(True)
    model.embed_tokens.weight, model.lm_head.weight = target.embedding, target.lm_head
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
    *,
    gradients_over: Tensor | None = None,
    numbers_per_chunk: int = NUMBERS_PER_CHUNK,
) -> DraftLosses:
    """Losses of all blocks of a batch, packed; `states` where the target's are known.

    With `gradients_over` a weight, gradients of the total over it are added to the model's.
    Blocks pass the heads and the losses a few at a time, forward and backward, so that what
    is as wide as the vocabulary never has more than `numbers_per_chunk` numbers (one block
    at least) whatever the batch.
    """
    kind: TrainedKind[DrafterModule] = KINDS[plan.kind]
    if states is None:
        states = target.read(batch.tokens)
    blocks = training_blocks(batch, states.features, plan.block_size, plan.context_tokens)
    blocks = replace(blocks, features=blocks.features.to(model.dtype))
    labels = block_labels(batch, states, plan.block_size)
    weights = kind.position_weights(plan).to(model.device)
    with _precision(plan, model):
        hidden = kind.hidden(model, blocks)[labels.exists]  # [N, gamma, d]
    previous = blocks.tokens[labels.exists]
    size = max(1, numbers_per_chunk // (plan.block_size * model.config.num_logits))
    read = hidden.detach().requires_grad_(gradients_over is not None)
    losses = DraftLosses.none(model.device)
    for first in range(0, len(read), size):
        few = slice(first, first + size)
        with _precision(plan, model):
            said = kind.predict(model, read[few], previous[few])
            distances = DraftDistances(
                said.logits,
                target.logits(labels.target_hidden[few]),
                labels.tokens[few],
                said.confidence_logits,
            )
            objective = kind.objective(distances, plan)
            found = draft_losses(objective, distances, weights, labels.counted[few])
        if gradients_over is not None:
            (found.total / gradients_over).backward()  # type: ignore[no-untyped-call]
        losses += found.detached()
    if gradients_over is not None:
        hidden.backward(read.grad)  # type: ignore[no-untyped-call]
    return losses


def _precision(plan: TrainingPlan, model: DrafterModule) -> torch.autocast:
    return torch.autocast(model.device.type, torch.bfloat16, enabled=plan.autocast)


def batch_weight(batch: Batch, plan: TrainingPlan) -> Tensor:
    """What a batch's `DraftLosses.weight` is going to be."""
    weights = KINDS[plan.kind].position_weights(plan)
    return (weights * counted_positions(batch, plan.block_size)).sum()
