"""Drafters from files, in whichever layout, and random ones for a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from drafters.confidence import TopProbConfidence
from drafters.config import (
    DrafterConfig,
    DSparkConfig,
    Eagle3Config,
    MTPConfig,
    NgramConfig,
    check_fit,
    read_config,
    text_config,
)
from drafters.dspark import DSparkModel
from drafters.errors import CheckpointError
from drafters.interface import DraftModel
from drafters.layouts import read_layout
from drafters.module import DrafterModule
from drafters.new_config import dspark_fields
from drafters.ngram import NgramModel
from drafters.own_layout import NGRAM_ARCHITECTURE
from drafters.paired import Eagle3Model, MTPModel
from drafters.tensor_files import TARGET_TENSORS, TensorFiles, target_tensors
from drafters.training_record import check_weights
from profiles.fingerprint import CONFIDENCE_FILE

RANDOM_INIT_STD = 0.02


def load_drafter(
    directory: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    target_dir: str | Path | None = None,
) -> DraftModel:
    """Load the drafter that `directory`/config.json describes, ready to draft.

    With `target_dir` the drafter must fit that target, and takes the embedding and LM head
    from it where its own files lack them. Raises CheckpointError naming the file and the
    field or tensor.
    """
    layout = read_layout(read_config(directory), str(Path(directory) / "config.json"))
    config = layout.config
    if target_dir is not None:
        check_fit(config, read_config(target_dir), str(target_dir))
    if isinstance(config, NgramConfig):
        return NgramModel(config, device)
    check_weights(Path(directory))
    files = TensorFiles(directory)
    stored_as = {
        name: stored for stored in files.names if (name := layout.name_of(stored)) is not None
    }
    model = empty_model(config)
    needed = model.state_dict()
    for name, stored in stored_as.items():
        if name not in needed:
            raise CheckpointError(
                f"{files.path_of(stored)}: tensor {stored} is not one of the tensors "
                f"that {config.source} calls for"
            )
    state = {name: files.read(stored) for name, stored in stored_as.items()}
    if target_dir is not None:
        missing = [name for name in TARGET_TENSORS if name not in state]
        state |= _from_target(target_dir, missing, state.get("d2t"))
    for name, parameter in needed.items():
        if name not in state:
            raise CheckpointError(f"{files.source}: tensor {name} is missing{_mend(name)}")
        if state[name].shape != parameter.shape:
            where = files.path_of(stored_as[name]) if name in stored_as else target_dir
            raise CheckpointError(
                f"{where}: tensor {name} is {list(state[name].shape)}; config.json needs "
                f"{list(parameter.shape)}"
            )
    _assemble(model, state, dtype, device)
    _check_draft_vocabulary(model)
    _read_confidence(model, directory)
    return model


def needs_target_weights(directory: str | Path) -> bool:
    """Whether a drafter leaves its embedding or its LM head to the target.

    Reads names, no weights. Raises CheckpointError.
    """
    layout = read_layout(read_config(directory), str(Path(directory) / "config.json"))
    if isinstance(layout.config, NgramConfig):
        return False
    return not TARGET_TENSORS.keys() <= set(map(layout.name_of, TensorFiles(directory).names))


def random_drafter(
    target_dir: str | Path,
    *,
    num_layers: int,
    block_size: int,
    markov_rank: int,
    target_layer_ids: tuple[int, ...],
    mask_token_id: int | None = None,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> DSparkModel:
    """An untrained DSpark drafter of a target's sizes, with the target's embedding and LM head.

    It drafts nothing useful, at a trained drafter's cost. Raises CheckpointError.
    """
    fields = dspark_fields(
        target_dir,
        num_layers=num_layers,
        block_size=block_size,
        markov_rank=markov_rank,
        target_layer_ids=target_layer_ids,
        mask_token_id=mask_token_id,
    )
    model = random_model(fields, target_dir, seed=seed, dtype=dtype, device=device)
    assert isinstance(model, DSparkModel)
    return model


def ngram_drafter(
    target_dir: str | Path,
    *,
    block_size: int,
    min_match: int | None = None,
    max_match: int | None = None,
    confidence_by_match: Sequence[float] | None = None,
    device: torch.device | str,
) -> NgramModel:
    """N-gram lookup over a target's vocabulary, without a checkpoint. Raises CheckpointError."""
    fields = {
        "architectures": [NGRAM_ARCHITECTURE],
        "vocab_size": text_config(read_config(target_dir)).get("vocab_size"),
        "block_size": block_size,
        "min_match": min_match,
        "max_match": max_match,
        "confidence_by_match": confidence_by_match and list(confidence_by_match),
    }
    config = DrafterConfig.from_dict(fields, f"n-gram drafter for {target_dir}")
    assert isinstance(config, NgramConfig)
    return NgramModel(config, device)


def random_model(
    fields: Mapping[str, Any],
    target_dir: str | Path | None,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> DrafterModule:
    """Whichever drafter the config `fields` describe, with random weights.

    Embedding and LM head are the target's, or random too without one. Weights of one seed
    differ between kinds of device. Raises CheckpointError.
    """
    config = DrafterConfig.from_dict(fields, f"random drafter for {target_dir}")
    model = empty_model(config)
    generator = torch.Generator(device).manual_seed(seed)
    state = {} if target_dir is None else target_tensors(target_dir, list(TARGET_TENSORS))
    for name, parameter in model.state_dict().items():
        if name not in state:
            weight = _random_weight(name, parameter.shape, generator)
            state[name] = weight.to(dtype) if weight.is_floating_point() else weight
        elif state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{target_dir}: tensor {name} is {list(state[name].shape)}; config.json needs "
                f"{list(parameter.shape)}"
            )
    _assemble(model, state, dtype, device)
    return model


def empty_model(config: DrafterConfig) -> DrafterModule:
    """The model of a config, without memory for its weights. Raises CheckpointError."""
    with torch.device("meta"):
        if isinstance(config, DSparkConfig):
            return DSparkModel(config)
        if isinstance(config, Eagle3Config):
            return Eagle3Model(config)
        if isinstance(config, MTPConfig):
            return MTPModel(config)
    raise CheckpointError(f"{config.source}: {type(config).__name__} has no weights to read")


def _assemble(
    model: DrafterModule, state: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> None:
    """Give an empty model its weights; tied tensors stay one, integers stay integers."""
    moved: dict[int, Tensor] = {}
    for tensor in state.values():
        if id(tensor) not in moved:
            as_dtype = dtype if tensor.is_floating_point() else tensor.dtype
            moved[id(tensor)] = tensor.to(device, as_dtype).contiguous()
    weights = {name: moved[id(tensor)] for name, tensor in state.items()}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(False).eval()


def _from_target(
    target_dir: str | Path, missing: list[str], d2t: Tensor | None
) -> dict[str, Tensor]:
    """The target's embedding and LM head, of that only the rows of the draft vocabulary."""
    found = target_tensors(target_dir, missing)
    if d2t is not None and "lm_head.weight" in found:
        head = found["lm_head.weight"]
        rows = torch.arange(len(d2t)) + d2t
        found["lm_head.weight"] = head[rows.clamp(0, len(head) - 1)]
    return found


def _check_draft_vocabulary(model: DrafterModule) -> None:
    ids, config = model.target_ids, model.config
    if ids is not None and not (int(ids.min()) >= 0 and int(ids.max()) < config.vocab_size):
        raise CheckpointError(
            f"{config.source}: d2t leads to tokens {int(ids.min())} to {int(ids.max())}; "
            f"vocab_size is {config.vocab_size}"
        )


def _read_confidence(model: DrafterModule, directory: str | Path) -> None:
    if not model.has_confidence_head:
        model.confidence = TopProbConfidence.load(directory, model.config.block_size)
    elif (Path(directory) / CONFIDENCE_FILE).exists():
        raise CheckpointError(
            f"{Path(directory) / CONFIDENCE_FILE}: the drafter has a confidence head; this file "
            "is for those without, so remove it"
        )


def _mend(name: str) -> str:
    if name in TARGET_TENSORS:
        return "; name the target's directory to take it from there"
    return "; the checkpoint and its config.json do not belong together, or it is incomplete"


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if "norm" in name or "scalar" in name:
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    if name == "d2t":
        return torch.zeros(shape, dtype=torch.int64)
    return torch.randn(shape, generator=generator, device=generator.device) * RANDOM_INIT_STD
