"""Many blocks of one sequence in a single pass of a DSpark or DFlash backbone.

The blocks of a sequence's anchors lie behind each other along the query length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.dspark import DSparkModel
from drafters.training.blocks import TrainingBlocks


def parallel_hidden(model: DSparkModel, blocks: TrainingBlocks) -> Tensor:
    """Normed hidden states [B, n, gamma, d] of all blocks, each as it would be alone."""
    config = model.config
    rows, count, gamma = blocks.tokens.shape
    length = blocks.positions.shape[1]
    keys, values = model.context_kv(blocks.features.flatten(0, 1), blocks.positions.flatten())
    shape = (config.num_hidden_layers, rows, length, config.num_key_value_heads, config.head_dim)
    offsets = torch.arange(gamma, device=blocks.anchors.device)
    table = model.rotary.table((blocks.anchors.unsqueeze(-1) + offsets).flatten(1))
    slots = torch.full_like(blocks.tokens, config.mask_token_id)
    slots[..., 0] = blocks.tokens[..., 0]
    hidden = model.embed(slots.flatten(1))  # [B, n * gamma, d]
    mask = packed_mask(blocks.visible, gamma)
    groups = config.num_attention_heads // config.num_key_value_heads
    mask = mask.repeat(1, groups, 1).unsqueeze(1)
    # As what is added to scores, once: a bool mask is turned into that, and kept, by every layer.
    mask = torch.zeros_like(mask, dtype=values.dtype).masked_fill_(~mask, float("-inf"))
    for layer, k, v in zip(model.layers, keys.view(shape), values.view(shape), strict=True):
        hidden = layer(hidden, table, k, v, mask)
    normed: Tensor = model.norm(hidden)
    return normed.view(rows, count, gamma, -1)


def packed_mask(visible: Tensor, gamma: int) -> Tensor:
    """Which of C context and n * gamma block positions a block position sees.

    Bool [B, n * gamma, C + n * gamma] from `visible` [B, n, C].
    """
    rows, count, _ = visible.shape
    block = torch.arange(count, device=visible.device).repeat_interleave(gamma)
    own = (block[:, None] == block).expand(rows, -1, -1)
    return torch.cat((visible.repeat_interleave(gamma, dim=1), own), dim=-1)
