"""Many blocks of one sequence in a single pass.

A sequence's context K/V are computed once. The blocks of all its anchors lie behind each
other along the query length; a mask lets each see the context before its own anchor and
itself, which is what it would see alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.dspark import DSparkModel


def packed_backbone(
    model: DSparkModel, features: Tensor, tokens: Tensor, anchors: Tensor
) -> Tensor:
    """Hidden states [B, n, gamma, d] of the blocks at `anchors` int64 [B, n].

    `features` is [B, T, F], `tokens` int64 [B, T]. An anchor's context are the positions
    before it. Anchors must be positions of the sequence.
    """
    config = model.config
    rows, length, _ = features.shape
    count, gamma = anchors.shape[1], config.block_size
    positions = torch.arange(length, device=features.device)
    keys, values = model.context_kv(features.flatten(0, 1), positions.repeat(rows))
    shape = (config.num_hidden_layers, rows, length, config.num_key_value_heads, config.head_dim)
    offsets = torch.arange(gamma, device=features.device)
    table = model.rotary.table((anchors.unsqueeze(-1) + offsets).flatten(1))
    blocks = anchors.new_full((rows, count, gamma), config.mask_token_id)
    blocks[..., 0] = tokens.gather(1, anchors)
    hidden = model.embed_tokens(blocks.flatten(1))  # [B, n * gamma, d]
    mask = packed_mask(anchors, length, gamma)
    groups = config.num_attention_heads // config.num_key_value_heads
    mask = mask.repeat(1, groups, 1).unsqueeze(1)
    for layer, k, v in zip(model.layers, keys.view(shape), values.view(shape), strict=True):
        hidden = layer(hidden, table, k, v, mask)
    normed: Tensor = model.norm(hidden)
    return normed.view(rows, count, gamma, -1)


def packed_mask(anchors: Tensor, length: int, gamma: int) -> Tensor:
    """Which of `length` context and n * gamma block positions a block position sees.

    Bool [B, n * gamma, length + n * gamma].
    """
    rows, count = anchors.shape
    positions = torch.arange(length, device=anchors.device)
    before = positions < anchors.repeat_interleave(gamma, dim=1).unsqueeze(-1)
    block = torch.arange(count, device=anchors.device).repeat_interleave(gamma)
    own = (block[:, None] == block).expand(rows, -1, -1)
    return torch.cat((before, own), dim=-1)
