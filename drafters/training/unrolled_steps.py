"""The serial steps of a drafter of pairs, unrolled for many anchors of one sequence.

Training-time test (EAGLE-3, arXiv 2503.01840, section 3.2): every step but the first takes
the drafter's own hidden state of the step before, as drafting does, with the true token.
The pairs before an anchor are made once for all anchors; of the later steps each anchor
sees its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.layers import attend
from drafters.paired import PairedModel
from drafters.training.blocks import TrainingBlocks
from drafters.training.plan import TrainingPlan


def unrolled_keys(plan: TrainingPlan, context: float) -> float:
    """Keys of a step on average: the context's, and those of all anchors' steps before it."""
    return context + plan.num_anchors * (plan.block_size - 1) / 2


def unrolled_hidden(model: PairedModel, blocks: TrainingBlocks) -> Tensor:
    """Normed outputs [B, n, gamma, d] of gamma steps from each anchor.

    Anchors must be 1 or more: a draft starts from the pair before its anchor.
    """
    layer, config = model.layer, model.config
    rows, count, gamma = blocks.tokens.shape
    context = model.project(blocks.features)
    pairs = model.pair(model.embed(blocks.next_tokens), context)
    table = model.rotary.table(blocks.positions)
    keys, values = layer.self_attn.keys_values(pairs.normed, table)  # [B, C, kv_heads, head_dim]
    newest = blocks.anchors - 1 - blocks.positions[:, :1]
    hidden = context[torch.arange(rows, device=newest.device)[:, None], newest]  # [B, n, d]
    groups = config.num_attention_heads // config.num_key_value_heads
    own = torch.eye(count, dtype=torch.bool, device=newest.device).expand(rows, -1, -1)
    seen = blocks.visible
    outputs = []
    for k in range(gamma):
        inputs = model.pair(model.embed(blocks.tokens[..., k]), hidden)
        table = model.rotary.table(blocks.anchors - 1 + k)
        queries, own_k, own_v = layer.project(inputs.normed, table)
        if k:  # the first step's own pair is the newest of the context
            keys, values = torch.cat((keys, own_k), dim=1), torch.cat((values, own_v), dim=1)
            seen = torch.cat((seen, own), dim=-1)
        mask = seen.repeat(1, groups, 1).unsqueeze(1)
        output = layer.finish(inputs.residual, attend(queries, keys, values, mask, layer.scale))
        normed = model.norm(output)
        hidden = model.fed_back(output, normed)
        outputs.append(normed)
    return torch.stack(outputs, dim=2)
