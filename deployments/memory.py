"""What a target's ranks and its drafters need of a GPU's memory, and the refusal of what
cannot fit.

Estimates: weights divide evenly by the ranks, and `RESERVE_BYTES` stand for the CUDA
context, activations, graphs and communication buffers. vLLM measures the truth at start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.catalog import find_checkpoint
from deployments.checkpoints import local_directory
from deployments.errors import ConfigError
from deployments.kv_layout import KvLayers, kv_layers, sequence_bytes
from deployments.schema import ModelSpec

MIB, GIB = 1 << 20, 1 << 30
RESERVE_BYTES = 4 * GIB
# "auto" is a drafter's, of which only those on GPUs are checked.
_ELEMENT_BYTES = {"auto": 2, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Sized:
    """A checkpoint's config and the bytes of its tensors."""

    config: Mapping[str, Any]
    num_bytes: int


@dataclass(frozen=True, slots=True)
class RankMemory:
    """Bytes on the GPU of one rank (of rank 0, which holds a colocated drafter)."""

    weights: int
    kv_cache: int
    drafter_weights: int
    draft_context: int
    full_length_sequence: int
    reserve: int = RESERVE_BYTES

    @property
    def total(self) -> int:
        return (
            self.weights + self.kv_cache + self.drafter_weights + self.draft_context + self.reserve
        )

    @property
    def full_length_sequences(self) -> int:
        """Requests of `max_model_len` that the KV cache holds at once."""
        return self.kv_cache // self.full_length_sequence

    def __str__(self) -> str:
        parts = {
            "weights": self.weights,
            "KV cache": self.kv_cache,
            "drafter": self.drafter_weights,
            "draft context": self.draft_context,
            "reserve": self.reserve,
        }
        return " + ".join(f"{name} {size / GIB:.1f}" for name, size in parts.items() if size)


def sized(source: str) -> Sized | None:
    """What is known of a checkpoint without fetching it; None when nothing is."""
    directory = local_directory(source)
    if directory is not None:
        return _sized_directory(directory)
    known = find_checkpoint(source)
    return None if known is None else Sized(known.config, known.num_bytes)


def rank_memory(model: ModelSpec, target: Sized, drafter: Sized | None) -> RankMemory | None:
    """None when the model type's KV cache is not known here."""
    spec = model.target
    layers = kv_layers(target.config, _ELEMENT_BYTES[spec.dtype])
    if layers is None:
        return None
    native = model.placement == "native" and drafter is not None
    if native and drafter is not None:
        layers += kv_layers(drafter.config, _ELEMENT_BYTES[spec.dtype]) or ()
    colocated = model.placement == "colocated"
    return RankMemory(
        weights=_weight_bytes(target, spec.dtype) // spec.tensor_parallel,
        kv_cache=spec.kv_cache_mib * MIB,
        drafter_weights=_drafter_bytes(model, drafter),
        draft_context=model.drafter.context_mib * MIB if colocated and model.drafter else 0,
        full_length_sequence=_at_least_one(layers, spec.max_model_len, spec.tensor_parallel),
    )


def check_memory(model: ModelSpec) -> RankMemory | None:
    """The memory of a target's rank, where it can be told without fetching anything.

    Raises ConfigError with the arithmetic when it exceeds `gpu_memory_gib`, when the KV
    cache cannot hold one request of `max_model_len`, or when a drafter replica exceeds its own.
    """
    spec = model.target
    source = model.drafter.source if model.drafter else None
    drafter = sized(source) if source else None
    if model.placement == "split" and drafter is not None:
        _check_drafter(model, drafter)
    target = sized(spec.source) if spec.device == "cuda" else None
    if target is None:
        return None
    memory = rank_memory(model, target, drafter)
    if memory is None:
        return None
    if not memory.full_length_sequences:
        raise ConfigError(
            f"model {model.id}: target.kv_cache_mib {spec.kv_cache_mib} is less than the "
            f"{memory.full_length_sequence // MIB + 1} MiB of one request of max_model_len "
            f"{spec.max_model_len}; raise it, or lower max_model_len"
        )
    if spec.gpu_memory_gib is not None:
        has = spec.gpu_memory_gib * spec.gpus_per_rank
        if memory.total > has * GIB:
            raise ConfigError(
                f"model {model.id}: a rank needs {memory.total / GIB:.1f} GiB ({memory}), but "
                f"target.gpu_memory_gib x gpus_per_rank is {has:g}; lower kv_cache_mib, raise "
                "tensor_parallel, or use a larger GPU"
            )
    return memory


def _check_drafter(model: ModelSpec, drafter: Sized) -> None:
    spec = model.drafter
    if spec is None or spec.gpu_memory_gib is None:
        return
    weights, context = _weight_bytes(drafter, spec.dtype), spec.context_mib * MIB
    has = spec.gpu_memory_gib * spec.num_gpus
    if weights + context + RESERVE_BYTES > has * GIB:
        raise ConfigError(
            f"model {model.id}: a drafter needs {(weights + context + RESERVE_BYTES) / GIB:.1f} "
            f"GiB (weights {weights / GIB:.1f} + draft context {context / GIB:.1f} + reserve "
            f"{RESERVE_BYTES / GIB:.1f}), but drafter.gpu_memory_gib x num_gpus is {has:g}; lower "
            "context_mib, raise num_gpus, or use a larger GPU"
        )


def _at_least_one(layers: tuple[KvLayers, ...], num_tokens: int, tensor_parallel: int) -> int:
    return max(1, sequence_bytes(layers, num_tokens, tensor_parallel))


def _weight_bytes(checkpoint: Sized, dtype: str) -> int:
    """Bytes once loaded: quantized weights stay as they are, others become `dtype`."""
    if "quantization_config" in checkpoint.config:
        return checkpoint.num_bytes
    stored = checkpoint.config.get("torch_dtype") or checkpoint.config.get("dtype") or "bfloat16"
    return checkpoint.num_bytes * _ELEMENT_BYTES[dtype] // _ELEMENT_BYTES.get(str(stored), 2)


def _drafter_bytes(model: ModelSpec, drafter: Sized | None) -> int:
    if drafter is None or model.drafter is None:
        return 0
    if model.placement == "native":
        return _weight_bytes(drafter, model.target.dtype) // model.target.tensor_parallel
    if model.placement == "colocated":
        return _weight_bytes(drafter, model.drafter.dtype)
    return 0


def _sized_directory(directory: Path) -> Sized | None:
    try:
        config = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError):
        return None
    num_bytes = sum(file.stat().st_size for file in directory.glob("*.safetensors"))
    return Sized(config, num_bytes) if num_bytes and isinstance(config, dict) else None
