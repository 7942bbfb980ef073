"""Gemma 4's decoder layer, of the full-attention kind, as DeepSpec's drafters use it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from drafters.config import TransformerConfig
from drafters.layers import Attention, DecoderLayer, RMSNorm, RotaryTable, rotate


class Gemma4Attention(Attention):
    """Values are normed too, without a scale, and scores are not scaled.

    With `keys_are_values`, the values are the keys before norm and rotation.
    """

    scale = 1.0

    def __init__(self, config: TransformerConfig, input_size: int) -> None:
        super().__init__(config, input_size)
        if config.keys_are_values:
            self.v_proj = None
        self.v_norm = RMSNorm(config.head_dim, config.rms_norm_eps, with_scale=False)

    def keys_values(self, x: Tensor, table: RotaryTable) -> tuple[Tensor, Tensor]:
        assert self.k_norm is not None
        shape = (*x.shape[:-1], self.num_kv_heads, self.head_dim)
        keys = self.k_proj(x).view(shape)
        values = keys if self.v_proj is None else self.v_proj(x).view(shape)
        return rotate(self.k_norm(keys), table), self.v_norm(values)


class Gemma4Layer(DecoderLayer):
    """Attention and MLP each between two norms; the sum is scaled by a stored number."""

    layer_scalar: Tensor

    def __init__(self, config: TransformerConfig, *, reads_pairs: bool = False) -> None:
        super().__init__(config, reads_pairs=reads_pairs)
        self.pre_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.register_buffer("layer_scalar", torch.ones(1))

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        x: Tensor = residual + self.post_attention_layernorm(self.self_attn.o_proj(attended))
        fed_forward: Tensor = self.mlp(self.pre_feedforward_layernorm(x))
        x = x + self.post_feedforward_layernorm(fed_forward)
        return x * self.layer_scalar

    def _attention(self, config: TransformerConfig, input_size: int) -> Attention:
        return Gemma4Attention(config, input_size)


def decoder_layer(config: TransformerConfig, *, reads_pairs: bool = False) -> DecoderLayer:
    """A layer of the drafter's family."""
    kind = Gemma4Layer if config.family == "gemma4" else DecoderLayer
    return kind(config, reads_pairs=reads_pairs)


def decoder_layers(config: TransformerConfig) -> nn.ModuleList:
    """All layers of a drafter."""
    return nn.ModuleList(decoder_layer(config) for _ in range(config.num_hidden_layers))
