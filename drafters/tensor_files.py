"""The tensors of a checkpoint directory: safetensors, in one file or in shards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from drafters.config import read_config, text_config
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


class TensorFiles:
    """Finds tensors by name and reads them one by one."""

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
            files = {name: self._directory / file for name, file in weight_map.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: no usable weight_map: {error!r}") from error
        for path in files.values():
            if path.parent != self._directory or path.suffix != ".safetensors":
                raise CheckpointError(
                    f"{index}: weight_map names {path}; needed are safetensors files beside it"
                )
        return files

    def _read_single(self) -> dict[str, Path]:
        if not self.source.is_file():
            raise CheckpointError(
                f"{self._directory}: neither model.safetensors nor its index is there; other "
                "formats are not read"
            )
        try:
            with safe_open(str(self.source), framework="pt") as file:
                return dict.fromkeys(file.keys(), self.source)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{self.source}: not a safetensors file: {error}") from error


def target_tensors(target_dir: str | Path, names: list[str]) -> dict[str, Tensor]:
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
