"""Qwen3's decoder layer with the drafter's attention: a whole block against a context."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor, nn

from drafters.config import DrafterConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, accumulated in float32."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Rotary:
    """Rotary positions in the half-rotate convention of Hugging Face's Qwen3."""

    def __init__(self, head_dim: int, theta: float) -> None:
        self._exponents = [-2.0 * i / head_dim for i in range(head_dim // 2)]
        self._theta = theta
        self._frequencies: dict[torch.device, Tensor] = {}

    def table(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 cos and sin of integer `positions` [...], each [..., 1, head_dim]."""
        angles = positions.to(torch.float32).unsqueeze(-1) * self._on(positions.device)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        return angles.cos(), angles.sin()

    def _on(self, device: torch.device) -> Tensor:
        if device not in self._frequencies:
            exponents = torch.tensor(self._exponents, dtype=torch.float32, device=device)
            self._frequencies[device] = self._theta**exponents
        return self._frequencies[device]


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn heads `x` [..., heads, head_dim] by a `Rotary.table`; keeps the dtype."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    half_turned = torch.cat((-second, first), dim=-1)
    return (x * cos + half_turned * sin).to(x.dtype)


class MLP(nn.Module):
    """SiLU-gated feed-forward layer."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_proj = nn.Linear(hidden, inner, bias=False)
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.silu(self.gate_proj(x)) * self.up_proj(x)
        return F.linear(gated, self.down_proj.weight)


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Attention of `queries` [R, gamma, heads, head_dim]; returns [R, gamma, heads * head_dim].

    `keys` and `values` are [R, C, kv_heads, head_dim]. The query heads that share a K/V head
    are laid along the query length, so K and V are never repeated; `mask` as in
    `BlockAttention.forward`.
    """
    rows, gamma, heads, head_dim = queries.shape
    kv_heads = keys.shape[2]
    grouped = queries.view(rows, gamma, kv_heads, heads // kv_heads, head_dim)
    grouped = grouped.permute(0, 2, 3, 1, 4)  # [R, kv_heads, groups, gamma, head_dim]
    folded = grouped.reshape(rows, kv_heads, -1, head_dim)
    out = F.scaled_dot_product_attention(
        folded, keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask
    )
    out = out.view(rows, kv_heads, heads // kv_heads, gamma, head_dim)
    return out.permute(0, 3, 1, 2, 4).reshape(rows, gamma, heads * head_dim)


class BlockAttention(nn.Module):
    """Attention of a draft block to its context and to the whole of itself."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        hidden, bias = config.hidden_size, config.attention_bias
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_kv_heads = config.num_key_value_heads
        self.q_proj = nn.Linear(hidden, self.num_heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(hidden, self.num_kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(hidden, self.num_kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, hidden, bias=bias)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)

    def keys_values(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """K (normed and rotated) and V of `x` [..., d], each [..., kv_heads, head_dim]."""
        shape = (*x.shape[:-1], self.num_kv_heads, self.head_dim)
        keys = rotate(self.k_norm(self.k_proj(x).view(shape)), table)
        return keys, self.v_proj(x).view(shape)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        context_k: Tensor,
        context_v: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Attend from blocks `x` [R, gamma, d]; returns [R, gamma, d].

        `context_k` and `context_v` are [R, C, kv_heads, head_dim]. `mask` is bool
        [R, 1, 1, C + gamma], one for all queries of a row, as a block is not causal; or
        [R, 1, heads / kv_heads * gamma, C + gamma] where queries differ, as in training,
        which packs many blocks into one row.
        """
        queries = self.q_proj(x).view(*x.shape[:-1], self.num_heads, self.head_dim)
        queries = rotate(self.q_norm(queries), table)
        own_k, own_v = self.keys_values(x, table)
        out = attend(
            queries,
            torch.cat((context_k, own_k), dim=1),
            torch.cat((context_v, own_v), dim=1),
            mask,
        )
        return F.linear(out, self.o_proj.weight, self.o_proj.bias)


class DecoderLayer(nn.Module):
    """One drafter layer: block attention and MLP, each behind a norm and a residual."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.self_attn = BlockAttention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        context_k: Tensor,
        context_v: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Shapes as in `BlockAttention.forward`."""
        attended: Tensor = self.self_attn(
            self.input_layernorm(x), table, context_k, context_v, mask
        )
        x = x + attended
        fed_forward: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + fed_forward
