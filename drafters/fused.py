"""The drafter's forward as it serves: projections that share an input run as one.

At a handful of rows a draft is bound by the number of operations, not by their size.
`DSparkModel.context_kv` and `DSparkModel.backbone` are the plain twin: the same numbers up
to rounding, read from the checkpoint's own parameters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.dspark import DSparkModel
from drafters.layers import DecoderLayer, attend, rotate


class FusedForward:
    """Reads `model`'s weights once; changes to them later are not seen.

    Arguments and results of the methods are those of `DSparkModel`'s of the same name.
    """

    def __init__(self, model: DSparkModel) -> None:
        self._model = model
        layers = model.decoder_layers
        self._layers = [_FusedLayer(layer) for layer in layers]
        attentions = [layer.self_attn for layer in layers]
        self._kv_weight, self._kv_bias = _joined(
            [a.k_proj for a in attentions] + [a.v_proj for a in attentions]
        )
        self._k_norms = torch.stack([a.k_norm.weight for a in attentions]).unsqueeze(1)  # [L, 1, D]

    def context_kv(self, features: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """K and V of all layers at once."""
        model, config = self._model, self._model.config
        context = model.fc(features)
        context = _normed(context, model.hidden_norm.weight, config.rms_norm_eps).to(model.dtype)
        kv = F.linear(context, self._kv_weight, self._kv_bias)
        kv = kv.view(-1, 2, len(self._layers), config.num_key_value_heads, config.head_dim)
        keys, values = kv.unbind(1)  # [N, L, kv_heads, head_dim]
        table = model.rotary.table(positions.unsqueeze(-1))
        keys = rotate(_normed(keys, self._k_norms, config.rms_norm_eps), table).to(model.dtype)
        return keys.transpose(0, 1), values.transpose(0, 1)

    def backbone(
        self,
        anchors: Tensor,
        starts: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor,
    ) -> Tensor:
        """Hidden states of all blocks, [R, gamma, d], normed."""
        model = self._model
        hidden, table, mask = model.block_inputs(anchors, starts, context_mask)
        for layer, keys, values in zip(self._layers, context_k, context_v, strict=True):
            hidden = layer(hidden, table, keys, values, mask)
        return _normed(hidden, model.norm.weight, model.config.rms_norm_eps).to(model.dtype)


class _FusedLayer:
    """A `DecoderLayer` with q, k and v in one projection, gate and up in another."""

    def __init__(self, layer: DecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self._layer = layer
        self._num_heads, self._head_dim = attention.num_heads, attention.head_dim
        self._num_turned = attention.num_heads + attention.num_kv_heads
        self._qkv_weight, self._qkv_bias = _joined(
            [attention.q_proj, attention.k_proj, attention.v_proj]
        )
        q_norm = attention.q_norm.weight.expand(attention.num_heads, -1)
        k_norm = attention.k_norm.weight.expand(attention.num_kv_heads, -1)
        self._qk_norm = torch.cat((q_norm, k_norm))  # [heads + kv_heads, head_dim]
        self._gate_up_weight, _ = _joined([mlp.gate_proj, mlp.up_proj])
        self._eps = attention.q_norm.eps

    def __call__(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        context_k: Tensor,
        context_v: Tensor,
        mask: Tensor,
    ) -> Tensor:
        layer, attention = self._layer, self._layer.self_attn
        normed = _normed(x, layer.input_layernorm.weight, self._eps).to(x.dtype)
        qkv = F.linear(normed, self._qkv_weight, self._qkv_bias)
        qkv = qkv.view(*x.shape[:-1], -1, self._head_dim)
        turned = rotate(_normed(qkv[..., : self._num_turned, :], self._qk_norm, self._eps), table)
        queries, own_k = turned.to(x.dtype).tensor_split((self._num_heads,), dim=2)
        keys = torch.cat((context_k, own_k), dim=1)
        values = torch.cat((context_v, qkv[..., self._num_turned :, :]), dim=1)
        attended = attend(queries, keys, values, mask)
        x = x + F.linear(attended, attention.o_proj.weight, attention.o_proj.bias)
        normed = _normed(x, layer.post_attention_layernorm.weight, self._eps).to(x.dtype)
        gate, up = F.linear(normed, self._gate_up_weight).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, layer.mlp.down_proj.weight)


def _joined(projections: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one projection that gives the outputs of all, in order."""
    weights = [p.weight.detach() for p in projections]
    biases = [p.bias.detach() for p in projections if p.bias is not None]
    return torch.cat(weights), torch.cat(biases) if biases else None


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, in float32; `weight` broadcasts."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight
