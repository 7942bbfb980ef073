"""The released models with DSpark drafters that this project has Serve files for."""

from __future__ import annotations

from deployments.catalog.deepseek_v4 import DEEPSEEK_V4_FLASH, DEEPSEEK_V4_PRO
from deployments.catalog.facts import Checkpoint, ModelFacts
from deployments.catalog.gemma4 import GEMMA4_12B
from deployments.catalog.qwen3 import QWEN3_4B, QWEN3_8B, QWEN3_14B

__all__ = ["MODELS", "Checkpoint", "ModelFacts", "find_checkpoint"]

MODELS: tuple[ModelFacts, ...] = (
    QWEN3_4B,
    QWEN3_8B,
    QWEN3_14B,
    GEMMA4_12B,
    DEEPSEEK_V4_FLASH,
    DEEPSEEK_V4_PRO,
)
_CHECKPOINTS = {
    checkpoint.hub_id: checkpoint
    for model in MODELS
    for checkpoint in (model.target, model.drafter)
    if checkpoint is not None
}


def find_checkpoint(hub_id: str) -> Checkpoint | None:
    """What is known of a checkpoint on the hub; None when it is not one of ours."""
    return _CHECKPOINTS.get(hub_id)
