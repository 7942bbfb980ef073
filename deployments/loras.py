"""LoRA adapters that a target serves beside its own weights.

Their requests run without speculation: an adapter changes the features that the drafter was
trained on. In the API an adapter is `MODEL:NAME`.
"""

from __future__ import annotations

import json
from typing import Any

from deployments.checkpoints import adapter_directory
from deployments.errors import ConfigError
from deployments.schema import ModelSpec

# What vLLM takes for `max_lora_rank`; an adapter's own rank is rounded up.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


def adapter_ids(model: ModelSpec) -> list[str]:
    """The adapters' names in the API."""
    return [f"{model.id}:{name}" for name in model.target.loras]


def lora_kwargs(model: ModelSpec) -> dict[str, Any]:
    """vLLM's engine arguments for the adapters; empty without any.

    Raises ConfigError naming the adapter that is missing or unusable.
    """
    if not model.target.loras:
        return {}
    ranks, modules = [], []
    for name, source in model.target.loras.items():
        field = f"model {model.id}: target.loras.{name}"
        directory = adapter_directory(source, field)
        ranks.append(_rank(directory / "adapter_config.json", field))
        modules.append({"name": f"{model.id}:{name}", "path": str(directory)})
    return {
        "enable_lora": True,
        "max_loras": len(modules),
        "max_lora_rank": next(rank for rank in RANKS if rank >= max(ranks)),
        "lora_modules": modules,
    }


def _rank(path: Any, field: str) -> int:
    try:
        rank = json.loads(path.read_text())["r"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{field}: {path} has no usable rank r: {error!r}") from None
    if not isinstance(rank, int) or not 1 <= rank <= RANKS[-1]:
        raise ConfigError(f"{field}: {path}: r is {rank!r}; needed: 1 to {RANKS[-1]}")
    return rank
