"""Drafters from files: trained ones in DeepSpec's layout, and random ones for a target."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from drafters.config import ARCHITECTURE, DrafterConfig, check_fit, read_config, text_config
from drafters.dspark import DSparkModel
from drafters.errors import CheckpointError

# What a drafter may leave to its target, and what the target calls it.
TARGET_TENSORS = {
    "embed_tokens.weight": (
        "model.embed_tokens.weight",
        "model.language_model.embed_tokens.weight",
        "language_model.model.embed_tokens.weight",
    ),
    "lm_head.weight": ("lm_head.weight", "language_model.lm_head.weight"),
}
MASK_TOKEN = "<|mask|>"
RANDOM_INIT_STD = 0.02


def load_drafter(
    directory: str | Path,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    target_dir: str | Path | None = None,
) -> DSparkModel:
    """Load a DSpark or DFlash drafter, ready to draft.

    With `target_dir` the drafter must fit that target, and takes the embedding and LM head
    from it where its own files lack them. Raises CheckpointError naming the file and the
    field or tensor.
    """
    config = DrafterConfig.load(directory)
    files = TensorFiles(directory)
    model = _empty_model(config)
    needed = model.state_dict()
    for name in files.names:
        if name not in needed:
            raise CheckpointError(
                f"{files.path_of(name)}: tensor {name} is not one of the tensors "
                f"that {config.source} calls for"
            )
    state = {name: files.read(name) for name in files.names}
    if target_dir is not None:
        check_fit(config, read_config(target_dir))
        missing = [name for name in TARGET_TENSORS if name not in state]
        state |= _target_tensors(target_dir, missing)
    for name, parameter in needed.items():
        if name not in state:
            raise CheckpointError(f"{files.source}: tensor {name} is missing{_mend(name)}")
        if state[name].shape != parameter.shape:
            where = files.path_of(name) if name in files.names else target_dir
            raise CheckpointError(
                f"{where}: tensor {name} is {list(state[name].shape)}; config.json needs "
                f"{list(parameter.shape)}"
            )
    return _assembled(model, state, dtype, device)


def fields_for_target(
    target_dir: str | Path,
    *,
    num_layers: int,
    block_size: int,
    markov_rank: int,
    target_layer_ids: tuple[int, ...],
    mask_token_id: int | None = None,
) -> dict[str, Any]:
    """The config.json of a DSpark drafter of a target's sizes. Raises CheckpointError.

    `mask_token_id` defaults to the tokenizer's <|mask|>, else the target's padding or end
    token.
    """
    target = text_config(read_config(target_dir))
    if mask_token_id is None:
        mask_token_id = _mask_token_id(Path(target_dir))
    return {
        **target,
        "architectures": [ARCHITECTURE],
        "layer_types": None,
        "num_hidden_layers": num_layers,
        "num_target_layers": target.get("num_hidden_layers"),
        "block_size": block_size,
        "mask_token_id": mask_token_id,
        "markov_rank": markov_rank,
        "markov_head_type": "vanilla",
        "target_layer_ids": list(target_layer_ids),
        "enable_confidence_head": True,
        "confidence_head_with_markov": markov_rank > 0,
    }


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
    """An untrained drafter of a target's sizes, with the target's embedding and LM head.

    It drafts nothing useful, at a trained drafter's cost. Raises CheckpointError.
    """
    fields = fields_for_target(
        target_dir,
        num_layers=num_layers,
        block_size=block_size,
        markov_rank=markov_rank,
        target_layer_ids=target_layer_ids,
        mask_token_id=mask_token_id,
    )
    config = DrafterConfig.from_dict(fields, f"random drafter for {target_dir}")
    model = _empty_model(config)
    generator = torch.Generator().manual_seed(seed)
    state = _target_tensors(target_dir, list(TARGET_TENSORS))
    for name, parameter in model.state_dict().items():
        if name not in state:
            state[name] = _random_weight(name, parameter.shape, generator)
        elif state[name].shape != parameter.shape:
            raise CheckpointError(
                f"{target_dir}: tensor {name} is {list(state[name].shape)}; config.json needs "
                f"{list(parameter.shape)}"
            )
    return _assembled(model, state, dtype, device)


class TensorFiles:
    """The tensors of a checkpoint directory, in one safetensors file or in shards."""

    def __init__(self, directory: str | Path) -> None:
        """Raises CheckpointError when there is no readable checkpoint."""
        self._directory = Path(directory)
        index = self._directory / "model.safetensors.index.json"
        self.source = index if index.is_file() else self._directory / "model.safetensors"
        self._file_of = self._read_index(index) if index.is_file() else self._read_single()

    @property
    def names(self) -> list[str]:
        """All tensor names."""
        return list(self._file_of)

    def path_of(self, name: str) -> Path:
        """The file that holds a tensor."""
        return self._file_of[name]

    def read(self, name: str) -> Tensor:
        """Raises CheckpointError when the file cannot be read or lacks the tensor."""
        path = self._file_of[name]
        try:
            with safe_open(str(path), framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
                return tensor
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: tensor {name} cannot be read: {error}") from error

    def _read_index(self, index: Path) -> dict[str, Path]:
        try:
            weight_map: Mapping[str, str] = json.loads(index.read_text("utf-8"))["weight_map"]
            return {name: self._directory / file for name, file in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: no usable weight_map: {error!r}") from error

    def _read_single(self) -> dict[str, Path]:
        if not self.source.is_file():
            raise CheckpointError(
                f"{self._directory}: neither model.safetensors nor its index is there"
            )
        try:
            with safe_open(str(self.source), framework="pt") as file:
                return dict.fromkeys(file.keys(), self.source)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.source}: not a safetensors file: {error}") from error


def _empty_model(config: DrafterConfig) -> DSparkModel:
    with torch.device("meta"):
        return DSparkModel(config)


def _assembled(
    model: DSparkModel, state: dict[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> DSparkModel:
    """Give an empty model its weights; tied tensors stay one."""
    moved: dict[int, Tensor] = {}
    for tensor in state.values():
        if id(tensor) not in moved:
            moved[id(tensor)] = tensor.to(device, dtype).contiguous()
    weights = {name: moved[id(tensor)] for name, tensor in state.items()}
    model.load_state_dict(weights, assign=True)
    return model.requires_grad_(False).eval()


def _target_tensors(target_dir: str | Path, names: list[str]) -> dict[str, Tensor]:
    """The target's tensors under the drafter's names; a tied LM head is the embedding.

    A target that lacks one leaves it out; the caller notices.
    """
    if not names:
        return {}
    files = TensorFiles(target_dir)
    target = read_config(target_dir)
    tied = text_config(target).get("tie_word_embeddings", target.get("tie_word_embeddings"))
    found: dict[str, Tensor] = {}
    for name in sorted(names):
        candidates = TARGET_TENSORS[name]
        if name == "lm_head.weight" and tied:
            candidates += TARGET_TENSORS["embed_tokens.weight"]
        present = [candidate for candidate in candidates if candidate in files.names]
        if not present:
            continue
        shared = found.get("embed_tokens.weight")
        is_embedding = present[0] in TARGET_TENSORS["embed_tokens.weight"]
        found[name] = shared if is_embedding and shared is not None else files.read(present[0])
    return found


def _mend(name: str) -> str:
    if name in TARGET_TENSORS:
        return "; name the target's directory to take it from there"
    return "; the checkpoint and its config.json do not belong together, or it is incomplete"


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> Tensor:
    if "norm" in name:
        return torch.ones(shape)
    if name.endswith("bias"):
        return torch.zeros(shape)
    return torch.randn(shape, generator=generator) * RANDOM_INIT_STD


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
