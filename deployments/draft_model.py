"""From a drafter's settings to its shape and to a draft engine that runs it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from deployments.checkpoints import checkpoint_directory, config_directory, read_config
from deployments.errors import ConfigError
from deployments.schema import DrafterSpec, ModelSpec
from drafters.checkpoint import (
    load_drafter,
    needs_target_weights,
    ngram_drafter,
    random_drafter,
)
from drafters.config import DrafterConfig, check_fit, text_config
from drafters.engine import DraftEngine
from drafters.errors import CheckpointError
from drafters.interface import DraftModel
from drafters.precision import as_dtype

# What n-gram lookup, at eight bytes per token, would otherwise have far too many of.
MAX_CONTEXT_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class DraftShape:
    """What a target's worker has to know of its drafter.

    `needs_tokens`: its rows carry token ids beside features.
    """

    block_size: int
    target_layer_ids: tuple[int, ...]
    needs_tokens: bool = False


def check_drafter(model: ModelSpec) -> DraftShape:
    """The drafter's shape, read without its weights.

    Raises ConfigError when the checkpoint is missing or does not fit the target.
    """
    assert model.drafter is not None
    target_config = read_config(
        model.target.source, f"model {model.id}: target.source", model.target.revision
    )
    random, ngram = model.drafter.random, model.drafter.ngram
    if ngram is not None:
        return DraftShape(ngram.block_size, (), needs_tokens=True)
    if random is not None:
        num_layers = text_config(target_config).get("num_hidden_layers", 0)
        if not all(-1 <= i < num_layers - 1 for i in random.target_layer_ids):
            raise ConfigError(
                f"model {model.id}: drafter.random.target_layer_ids {random.target_layer_ids} "
                f"must lie between -1 and {num_layers - 2} for a target of {num_layers} layers"
            )
        return DraftShape(random.block_size, random.target_layer_ids)
    source = model.drafter.source or ""
    field = f"model {model.id}: drafter.source"
    try:
        config = DrafterConfig.from_dict(read_config(source, field, model.drafter.revision), source)
        check_fit(config, target_config, model.target.source)
    except CheckpointError as error:
        raise ConfigError(f"{field}: {error}") from None
    needs_tokens = config.shape.needs_tokens
    return DraftShape(config.block_size, tuple(config.target_layer_ids), needs_tokens)


def make_draft_engine(
    drafter: dict[str, Any],
    *,
    target_dir: str,
    target_revision: str | None = None,
    dtype: str,
    device: torch.device,
    block_tokens: int,
    num_context_tokens: int,
    context_bytes: int,
) -> DraftEngine:
    """Load a drafter (`DrafterSpec` as plain values) into an engine with bounded context.

    `target_dir` is the target's directory or hub id; of the hub's, the weights are fetched
    only where the drafter's own files lack the embedding or the LM head.
    The number of context blocks is what fits into `context_bytes`. Raises
    CheckpointError when the checkpoint does not load.
    """
    spec = DrafterSpec.model_validate(drafter)
    model = _load(spec, (target_dir, target_revision), as_dtype(dtype, device), device)
    bytes_per_token = model.serving().layout.bytes_per_token
    num_blocks = max(1, context_bytes // (bytes_per_token * block_tokens))
    num_blocks = min(num_blocks, MAX_CONTEXT_BLOCKS)
    return DraftEngine(
        model,
        num_blocks=num_blocks,
        block_tokens=block_tokens,
        num_context_tokens=num_context_tokens,
        num_candidates=spec.num_candidates,
    )


def _load(
    spec: DrafterSpec,
    target: tuple[str, str | None],
    dtype: torch.dtype,
    device: torch.device,
) -> DraftModel:
    source, revision = target
    if spec.ngram is not None:
        target_dir = config_directory(source, "target.source", revision)
        return ngram_drafter(target_dir, device=device, **spec.ngram.model_dump())
    if spec.random is not None:
        target_dir = checkpoint_directory(source, "target.source", revision)
        return random_drafter(target_dir, dtype=dtype, device=device, **spec.random.model_dump())
    directory = checkpoint_directory(spec.source or "", "drafter.source", spec.revision)
    find_target = checkpoint_directory if needs_target_weights(directory) else config_directory
    target_dir = find_target(source, "target.source", revision)
    return load_drafter(directory, dtype=dtype, device=device, target_dir=target_dir)
