"""How much KV cache a model's layers need, from its config. Pure.

Bytes are those of the entries themselves; vLLM rounds groups of layers to common page sizes
on top. Sources for DeepSeek-V4: vLLM 0.29 `models/deepseek_v4/attention.py` (584 bytes per
entry under fp8, its indexer's 132) and `compressor.py` (float32 states over a window).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drafters.config import text_config

_V4_ENTRY_BYTES = 448 + 2 * 64 + 8  # fp8 without rotary part, bfloat16 rotary part, scales
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class KvLayers:
    """Layers whose caches are alike. `entry_bytes` are one layer's, all heads together;
    tensor parallelism divides them by at most `heads`."""

    num_layers: int
    entry_bytes: int
    heads: int = 1
    tokens_per_entry: int = 1
    window_tokens: int | None = None

    def sequence_bytes(self, num_tokens: int, tensor_parallel: int) -> int:
        """KV bytes of one sequence on one rank."""
        kept = min(num_tokens, self.window_tokens or num_tokens)
        entries = -(-kept // self.tokens_per_entry)
        return self.num_layers * entries * self.entry_bytes // min(tensor_parallel, self.heads)


def kv_layers(config: Mapping[str, Any], element_bytes: int = 2) -> tuple[KvLayers, ...] | None:
    """The layers of a target or drafter; None for a model type that is not known here."""
    text = text_config(config)
    kind = str(text.get("model_type"))
    if kind == "qwen3":
        heads = int(text["num_key_value_heads"])
        entry = 2 * heads * int(text["head_dim"]) * element_bytes
        return (KvLayers(int(text["num_hidden_layers"]), entry, heads),)
    if kind.startswith("gemma4"):
        return _gemma4(text, element_bytes)
    if kind == "deepseek_v4":
        return _deepseek_v4(text)
    return None


def sequence_bytes(layers: tuple[KvLayers, ...], num_tokens: int, tensor_parallel: int) -> int:
    """KV bytes of one sequence of `num_tokens` on one rank, all layers together."""
    return sum(group.sequence_bytes(num_tokens, tensor_parallel) for group in layers)


def _gemma4(text: Mapping[str, Any], element_bytes: int) -> tuple[KvLayers, ...]:
    kinds = list(text["layer_types"])
    num_full = kinds.count("full_attention")
    local_heads, full_heads = text["num_key_value_heads"], text["num_global_key_value_heads"]
    local = KvLayers(
        len(kinds) - num_full,
        2 * local_heads * text["head_dim"] * element_bytes,
        local_heads,
        window_tokens=text["sliding_window"],
    )
    full = KvLayers(num_full, 2 * full_heads * text["global_head_dim"] * element_bytes, full_heads)
    return tuple(group for group in (local, full) if group.num_layers)


def _deepseek_v4(text: Mapping[str, Any]) -> tuple[KvLayers, ...]:
    """Every layer has a window; layers with a ratio compress what is older. One latent serves
    all heads, so ranks hold the same. The last entries of the ratios are the drafter's."""
    ratios = list(text["compress_ratios"])
    fours, hundreds = ratios.count(4), ratios.count(128)
    head_dim, index_dim = int(text["head_dim"]), int(text["index_head_dim"])
    window = int(text["sliding_window"])
    return (
        KvLayers(len(ratios), _V4_ENTRY_BYTES, window_tokens=window),
        KvLayers(fours, _V4_ENTRY_BYTES + index_dim + _FLOAT32, tokens_per_entry=4),
        KvLayers(hundreds, _V4_ENTRY_BYTES, tokens_per_entry=128),
        # What the compressors keep of the tokens that are not compressed yet.
        KvLayers(fours, 4 * (head_dim + index_dim) * _FLOAT32, window_tokens=8),
        KvLayers(hundreds, 2 * head_dim * _FLOAT32, window_tokens=128),
    )
