"""A drafter's layers as they serve: projections that share an input run as one.

At a handful of rows a draft is bound by the number of operations, not by their size.
`DecoderLayer` and `DSparkModel` are the plain twins: the same numbers up to rounding, read
from the checkpoint's own parameters. Gemma 4's layers are served by their plain twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.gemma4 import Gemma4Layer
from drafters.layers import DecoderLayer, RMSNorm, RotaryTable, attend, rotate

if TYPE_CHECKING:
    from drafters.dspark import DSparkModel


class FusedLayer:
    """A `DecoderLayer` with q, k and v in one projection, gate and up in another.

    Reads the layer's weights once; changes to them later are not seen.
    """

    scale: float | None = None

    def __init__(self, layer: DecoderLayer) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        assert attention.v_proj is not None
        self._layer = layer
        self._num_heads, self._head_dim = attention.num_heads, attention.head_dim
        self._num_turned = attention.num_heads + attention.num_kv_heads
        self._qkv_weight, self._qkv_bias = joined(
            [attention.q_proj, attention.k_proj, attention.v_proj]
        )
        self._qk_norm: Tensor | None = None
        if attention.q_norm is not None and attention.k_norm is not None:
            q_norm = weight_of(attention.q_norm).expand(attention.num_heads, -1)
            k_norm = weight_of(attention.k_norm).expand(attention.num_kv_heads, -1)
            self._qk_norm = torch.cat((q_norm, k_norm))  # [heads + kv_heads, head_dim]
        self._gate_up_weight, _ = joined([mlp.gate_proj, mlp.up_proj])
        self._eps = layer.input_layernorm.eps
        self._input_norm = weight_of(layer.input_layernorm)
        self._middle_norm = weight_of(layer.post_attention_layernorm)

    def __call__(
        self, x: Tensor, table: RotaryTable, context_k: Tensor, context_v: Tensor, mask: Tensor
    ) -> Tensor:
        """As `DecoderLayer.forward`."""
        queries, keys, values = self.project(normed(x, self._input_norm, self._eps), table)
        keys = torch.cat((context_k, keys), dim=1)
        values = torch.cat((context_v, values), dim=1)
        return self.finish(x, attend(queries, keys, values, mask))

    def project(self, inputs: Tensor, table: RotaryTable) -> tuple[Tensor, Tensor, Tensor]:
        """As `DecoderLayer.project`."""
        qkv = F.linear(inputs, self._qkv_weight, self._qkv_bias)
        qkv = qkv.view(*inputs.shape[:-1], -1, self._head_dim)
        turned = qkv[..., : self._num_turned, :]
        if self._qk_norm is not None:
            turned = wide_normed(turned, self._qk_norm, self._eps)
        queries, keys = (
            rotate(turned, table).to(inputs.dtype).tensor_split((self._num_heads,), dim=-2)
        )
        return queries, keys, qkv[..., self._num_turned :, :]

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """As `DecoderLayer.finish`."""
        attention, mlp = self._layer.self_attn, self._layer.mlp
        x = residual + F.linear(attended, attention.o_proj.weight, attention.o_proj.bias)
        inputs = normed(x, self._middle_norm, self._eps)
        gate, up = F.linear(inputs, self._gate_up_weight).chunk(2, dim=-1)
        return x + F.linear(F.silu(gate) * up, mlp.down_proj.weight)


def served_layer(layer: DecoderLayer) -> FusedLayer | DecoderLayer:
    """A layer's fused form, or itself where there is none."""
    return layer if isinstance(layer, Gemma4Layer) else FusedLayer(layer)


class FusedForward:
    """`DSparkModel`'s forward over fused layers.

    Reads `model`'s weights once; changes to them later are not seen. Arguments and results
    of the methods are those of `DSparkModel`'s of the same name.
    """

    def __init__(self, model: DSparkModel) -> None:
        self._model = model
        self._layers = [FusedLayer(layer) for layer in model.decoder_layers]
        attentions = [layer.self_attn for layer in model.decoder_layers]
        values = [a.v_proj for a in attentions if a.v_proj is not None]
        self._kv_weight, self._kv_bias = joined([a.k_proj for a in attentions] + values)
        norms = [weight_of(a.k_norm) for a in attentions if a.k_norm is not None]
        self._k_norms = torch.stack(norms).unsqueeze(1)  # [L, 1, D]
        self._hidden_norm, self._norm = weight_of(model.hidden_norm), weight_of(model.norm)

    def context_kv(self, features: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """K and V of all layers at once."""
        model, config = self._model, self._model.config
        context = normed(model.fc(features), self._hidden_norm, config.rms_norm_eps)
        kv = F.linear(context, self._kv_weight, self._kv_bias)
        kv = kv.view(-1, 2, len(self._layers), config.num_key_value_heads, config.head_dim)
        keys, values = kv.unbind(1)  # [N, L, kv_heads, head_dim]
        table = model.rotary.table(positions.unsqueeze(-1))
        keys = rotate(wide_normed(keys, self._k_norms, config.rms_norm_eps), table)
        return keys.to(model.dtype).transpose(0, 1), values.transpose(0, 1)

    def backbone(
        self,
        anchors: Tensor,
        starts: Tensor,
        context_k: Tensor,
        context_v: Tensor,
        context_mask: Tensor,
    ) -> Tensor:
        """Hidden states of all blocks, normed."""
        model = self._model
        hidden, table, mask = model.block_inputs(anchors, starts, context_mask)
        for layer, keys, values in zip(self._layers, context_k, context_v, strict=True):
            hidden = layer(hidden, table, keys, values, mask)
        return normed(hidden, self._norm, model.config.rms_norm_eps)


def joined(projections: list[nn.Linear]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one projection that gives the outputs of all, in order."""
    weights = [p.weight.detach() for p in projections]
    biases = [p.bias.detach() for p in projections if p.bias is not None]
    return torch.cat(weights), torch.cat(biases) if biases else None


def weight_of(norm: RMSNorm) -> Tensor:
    """The weight of a norm that has one."""
    assert norm.weight is not None
    return norm.weight.detach()


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension, accumulated in float32."""
    return wide_normed(x, weight, eps).to(x.dtype)


def wide_normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same, left in float32; `weight` broadcasts."""
    wide = x.float()
    return wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight
