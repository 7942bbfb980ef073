"""What vLLM's own `method: dspark` is told (placement `native`), from the checkpoints' configs.

Read from vLLM 0.29: `config/speculative.py` (keys, and which drafters it takes for which
targets), `v1/worker/gpu/spec_decode/dspark` (what it does with them).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.checkpoints import checkpoint_source, read_config
from deployments.errors import ConfigError
from deployments.schema import ModelSpec
from drafters.config import text_config

# Drafters with a checkpoint of their own. vLLM takes more (Kimi-K3's, Qwen3-Omni's); these
# are the ones whose configs are checked here.
ARCHITECTURES = ("Qwen3DSparkModel", "Gemma4DSparkModel")
IN_TARGET = "deepseek_v4"  # the model type whose checkpoints carry their drafter


@dataclass(frozen=True, slots=True)
class Steering:
    """What vLLM's adaptive verification starts with instead of its own: calibrations
    (`autoscale.calibration_messages`), and a step-cost profile's file."""

    calibrations: dict[str, Any] = field(default_factory=dict)
    step_cost: str | None = None
    step_cost_override: tuple[str, ...] = ()
    nodes: int = 1


def speculative_config(model: ModelSpec) -> dict[str, Any]:
    """vLLM's `speculative_config`, with the drafter checked against its target.

    Raises ConfigError naming the setting when a checkpoint is missing, is no DSpark drafter
    that vLLM takes, or does not fit.
    """
    where = f"model {model.id}"
    target = read_config(model.target.source, f"{where}: target.source", model.target.revision)
    drafter = model.drafter
    config: dict[str, Any] = {
        "method": "dspark",
        "enable_adaptive_verification": model.native.adaptive_verification,
        "draft_sample_method": model.native.sample_drafts,
    }
    if drafter is None:
        block_size = block_size_in_target(target, f"{where}: target.source")
        revision = model.target.revision  # vLLM loads the drafter as a second model
    else:
        field = f"{where}: drafter.source"
        source = drafter.source or ""
        block_size = block_size_of_drafter(
            read_config(source, field, drafter.revision), target, field
        )
        config["model"] = checkpoint_source(source, field, drafter.revision)
        revision = drafter.revision
    if revision is not None:
        config["revision"] = revision
    return config | {"num_speculative_tokens": block_size}


def block_size_in_target(target: Mapping[str, Any], field: str) -> int:
    """Draft tokens per block of the drafter inside a target. Raises ConfigError."""
    block_size = target.get("dspark_block_size")
    if target.get("model_type") != IN_TARGET or not isinstance(block_size, int):
        raise ConfigError(
            f"{field}: model type {target.get('model_type')!r} with dspark_block_size "
            f"{block_size!r} carries no DSpark drafter; give drafter.source"
        )
    return block_size


def block_size_of_drafter(drafter: Mapping[str, Any], target: Mapping[str, Any], field: str) -> int:
    """Draft tokens per block of a drafter's checkpoint. Raises ConfigError."""
    architectures = drafter.get("architectures") or []
    if not any(name in ARCHITECTURES for name in architectures):
        raise ConfigError(
            f"{field}: architectures is {architectures}; vLLM's dspark takes one of "
            f"{list(ARCHITECTURES)}"
        )
    text = text_config(target)
    for ours, theirs in (
        ("hidden_size", "hidden_size"),
        ("vocab_size", "vocab_size"),
        ("num_target_layers", "num_hidden_layers"),
    ):
        if drafter.get(ours) != text.get(theirs):
            raise ConfigError(
                f"{field}: {ours} is {drafter.get(ours)}, but the target's {theirs} is "
                f"{text.get(theirs)}; use the drafter trained for this target"
            )
    block_size = drafter.get("block_size")
    if not isinstance(block_size, int) or block_size < 1:
        raise ConfigError(f"{field}: block_size is {block_size!r}; needed: a positive integer")
    return block_size
