"""Decoder layers with a drafter's attention: new positions against a context and themselves.

A layer's forward has two halves with the attention between them: `project` makes queries,
keys and values, `finish` takes what they attended to. Which keys and values the queries see
is the caller's business.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import TransformerConfig

RotaryTable = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, accumulated in float32."""

    weight: Tensor | None

    def __init__(self, size: int, eps: float, *, with_scale: bool = True) -> None:
        super().__init__()
        self._shape = (size,)
        self.eps = eps
        self.register_parameter("weight", nn.Parameter(torch.empty(size)) if with_scale else None)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self._shape, self.weight, self.eps)


class Rotary:
    """Rotary positions in the half-rotate convention of Hugging Face's Qwen3.

    Of a head's frequencies the first `fraction` turn; the others stand still (Gemma 4).
    """

    def __init__(self, head_dim: int, theta: float, fraction: float = 1.0) -> None:
        self._exponents = [-2.0 * i / head_dim for i in range(head_dim // 2)]
        self._num_turning = int(fraction * head_dim // 2)
        self._theta = theta
        self._frequencies: dict[torch.device, Tensor] = {}

    def table(self, positions: Tensor) -> RotaryTable:
        """Float32 cos and sin of integer `positions` [...], each [..., 1, head_dim]."""
        angles = positions.to(torch.float32).unsqueeze(-1) * self._on(positions.device)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        return angles.cos(), angles.sin()

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._frequencies:
            exponents = torch.tensor(self._exponents, dtype=torch.float32, device=device)
            frequencies = self._theta**exponents
            frequencies[self._num_turning :] = 0.0
            self._frequencies[device] = frequencies
        return self._frequencies[device]


def rotary(config: TransformerConfig) -> Rotary:
    """The rotary positions of a drafter."""
    return Rotary(config.head_dim, config.rope_theta, config.rotary_fraction)


def rotate(x: Tensor, table: RotaryTable) -> Tensor:
    """Turn heads `x` [..., heads, head_dim] by a `Rotary.table`; keeps the dtype."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    half_turned = torch.cat((-second, first), dim=-1)
    return (x * cos + half_turned * sin).to(x.dtype)


class MLP(nn.Module):
    """Gated feed-forward layer: SiLU, in Gemma 4 GELU by its tanh approximation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)
        self._is_gelu = config.family == "gemma4"

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate_proj(x)
        gate = F.gelu(gate, approximate="tanh") if self._is_gelu else F.silu(gate)
        return F.linear(gate * self.up_proj(x), self.down_proj.weight)


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor, scale: float | None = None
) -> Tensor:
    """Attention of `queries` [R, n, heads, head_dim]; returns [R, n, heads * head_dim].

    `keys` and `values` are [R, C, kv_heads, head_dim]. The query heads that share a K/V head
    are laid along the query length, so K and V are never repeated. `mask` is bool or what is
    added to the scores, [R, 1, 1, C] where all queries of a row see the same, else
    [R, 1, heads / kv_heads * n, C]. `scale` None is head_dim ** -0.5.
    """
    rows, length, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    grouped = queries.view(rows, length, kv_heads, heads // kv_heads, head_dim)
    grouped = grouped.permute(0, 2, 3, 1, 4)  # [R, kv_heads, groups, n, head_dim]
    folded = grouped.reshape(rows, kv_heads, -1, head_dim)
    out = F.scaled_dot_product_attention(
        folded, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask, scale=scale
    )
    out = out.view(rows, kv_heads, heads // kv_heads, length, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(rows, length, heads * head_dim)


class Attention(nn.Module):
    """Queries, keys and values, with Qwen3's norms of queries and keys or, in Llama, without."""

    scale: float | None = None

    def __init__(self, config: TransformerConfig, input_size: int) -> None:
        super().__init__()
        inputs, bias = input_size, config.attention_bias
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.q_proj = nn.Linear(inputs, self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(inputs, self.num_kv_heads * self.head_dim, bias=bias)
        self.v_proj: nn.Linear | None = nn.Linear(
            inputs, self.num_kv_heads * self.head_dim, bias=bias
        )
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=bias)
        self.q_norm: RMSNorm | None = None
        self.k_norm: RMSNorm | None = None
        if config.family != "llama":
            self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def queries(self, x: Tensor, table: RotaryTable) -> Tensor:
        """Queries (normed and rotated) of `x` [..., input_size], [..., heads, head_dim]."""
        queries = self.q_proj(x).view(*x.shape[:-1], self.num_heads, self.head_dim)
        return rotate(queries if self.q_norm is None else self.q_norm(queries), table)

    def keys_values(self, x: Tensor, table: RotaryTable) -> tuple[Tensor, Tensor]:
        """K (normed and rotated) and V of `x` [..., input_size], each [..., kv_heads, head_dim]."""
        assert self.v_proj is not None
        shape = (*x.shape[:-1], self.num_kv_heads, self.head_dim)
        keys = self.k_proj(x).view(shape)
        keys = rotate(keys if self.k_norm is None else self.k_norm(keys), table)
        return keys, self.v_proj(x).view(shape)


class DecoderLayer(nn.Module):
    """One drafter layer: attention and MLP, each behind a norm and a residual.

    A layer that `reads_pairs` has attention inputs of twice the hidden size, and a norm for
    their second half.
    """

    def __init__(self, config: TransformerConfig, *, reads_pairs: bool = False) -> None:
        super().__init__()
        d = config.hidden_size
        self.self_attn = self._attention(config, 2 * d if reads_pairs else d)
        self.mlp = MLP(config)
        self.hidden_norm = RMSNorm(d, config.rms_norm_eps) if reads_pairs else None
        self.input_layernorm = RMSNorm(d, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(d, config.rms_norm_eps)

    @property
    def scale(self) -> float | None:
        """Of the attention scores, for `attend`."""
        return self.self_attn.scale

    def forward(
        self, x: Tensor, table: RotaryTable, context_k: Tensor, context_v: Tensor, mask: Tensor
    ) -> Tensor:
        """A block `x` [R, n, d] attends to its context and to the whole of itself.

        `context_k` and `context_v` are [R, C, kv_heads, head_dim]. `mask` is bool
        [R, 1, 1, C + n], one for all queries of a row, as a block is not causal; or
        [R, 1, heads / kv_heads * n, C + n] where queries differ, as in training, which packs
        many blocks into one row.
        """
        queries, keys, values = self.project(self.input_layernorm(x), table)
        keys = torch.cat((context_k, keys), dim=1)
        values = torch.cat((context_v, values), dim=1)
        return self.finish(x, attend(queries, keys, values, mask, self.scale))

    def project(self, normed: Tensor, table: RotaryTable) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of normed inputs [R, n, input_size]."""
        return self.self_attn.queries(normed, table), *self.self_attn.keys_values(normed, table)

    def finish(self, residual: Tensor, attended: Tensor) -> Tensor:
        """The layer's output from what it `attended` to, both [R, n, ...]."""
        x: Tensor = residual + self.self_attn.o_proj(attended)
        fed_forward: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + fed_forward

    def _attention(self, config: TransformerConfig, input_size: int) -> Attention:
        return Attention(config, input_size)
