"""The config.json of a drafter that is yet to be trained: its target's sizes, its own fields.

DeepSpec's layout, and this project's own for MTP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from drafters.config import read_config, text_config
from drafters.errors import CheckpointError
from drafters.own_layout import MTP_ARCHITECTURE

MASK_TOKEN = "<|mask|>"


def dspark_fields(
    target_dir: str | Path,
    *,
    num_layers: int,
    block_size: int,
    markov_rank: int,
    target_layer_ids: tuple[int, ...],
    mask_token_id: int | None = None,
    markov_head_type: str = "vanilla",
) -> dict[str, Any]:
    """Of a DSpark drafter; without `markov_rank`, of DFlash. Raises CheckpointError.

    `mask_token_id` defaults to the tokenizer's <|mask|>, else the target's padding or end
    token.
    """
    if mask_token_id is None:
        mask_token_id = _mask_token_id(Path(target_dir))
    return {
        **_shared_fields(target_dir, "DSparkModel"),
        "num_hidden_layers": num_layers,
        "block_size": block_size,
        "mask_token_id": mask_token_id,
        "markov_rank": markov_rank,
        "markov_head_type": markov_head_type,
        "target_layer_ids": list(target_layer_ids),
        "enable_confidence_head": markov_rank > 0,
        "confidence_head_with_markov": markov_rank > 0,
    }


def eagle3_fields(
    target_dir: str | Path, *, block_size: int, target_layer_ids: tuple[int, ...]
) -> dict[str, Any]:
    """Of an Eagle3 drafter, trained over `block_size` unrolled steps. Raises CheckpointError."""
    return {
        **_shared_fields(target_dir, "Eagle3Model"),
        "num_hidden_layers": 1,
        "ttt_length": block_size,
        "target_layer_ids": list(target_layer_ids),
    }


def mtp_fields(target_dir: str | Path, *, block_size: int) -> dict[str, Any]:
    """Of a next-token module over the target's last layer. Raises CheckpointError."""
    fields = _shared_fields(target_dir, "MTPModel")
    if fields["architectures"] != [MTP_ARCHITECTURE]:
        raise CheckpointError(f"{target_dir}: an MTP drafter needs a Qwen3 target")
    depth = fields["num_target_layers"]
    return {
        **fields,
        "num_hidden_layers": 1,
        "block_size": block_size,
        "target_layer_ids": [depth - 1 if isinstance(depth, int) else 0],
    }


def _shared_fields(target_dir: str | Path, kind: str) -> dict[str, Any]:
    target = text_config(read_config(target_dir))
    return {
        **_global_heads(target),
        **target,
        "architectures": [_family(target) + kind],
        "layer_types": None,
        "per_layer_config": None,
        "num_target_layers": target.get("num_hidden_layers"),
    }


def _global_heads(target: Mapping[str, Any]) -> dict[str, Any]:
    """Gemma 4's full-attention heads, where they are told of each layer alone.

    That is how later versions of transformers write a config; released checkpoints have the
    fields that a drafter's config has.
    """
    kinds = target.get("layer_types") or []
    layers = target.get("per_layer_config") or {}
    if "full_attention" not in kinds or not layers:
        return {}
    layer = layers.get(str(kinds.index("full_attention")), {})
    return {
        "global_head_dim": layer.get("head_dim", target.get("head_dim")),
        "num_global_key_value_heads": layer.get(
            "num_key_value_heads", target.get("num_key_value_heads")
        ),
    }


def _family(target: Mapping[str, Any]) -> str:
    return "Gemma4" if str(target.get("model_type", "")).startswith("gemma4") else "Qwen3"


def _mask_token_id(target_dir: Path) -> int:
    """The <|mask|> of tokenizer.json, else the config's padding or end token."""
    tokenizer = target_dir / "tokenizer.json"
    if tokenizer.is_file():
        try:
            added = json.loads(tokenizer.read_text("utf-8")).get("added_tokens", [])
            ids = [token["id"] for token in added if token["content"] == MASK_TOKEN]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{tokenizer}: added_tokens not readable: {error!r}") from error
        if ids:
            return int(ids[0])
    target = text_config(read_config(target_dir))
    for field in ("pad_token_id", "eos_token_id"):
        value = target.get(field)
        value = value[0] if isinstance(value, list) and value else value
        if isinstance(value, int):
            return value
    raise CheckpointError(
        f"{target_dir}/config.json: no {MASK_TOKEN} token, pad_token_id or eos_token_id; "
        "give mask_token_id"
    )
