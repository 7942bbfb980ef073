"""The most memory that a device takes in training, from sizes alone, at the longest texts.

Always there
  target       its weights, 2 bytes each in bfloat16, 4 in float32; the drafter has no copy of
               embedding and LM head
  drafter      16 bytes a trained weight: itself, its gradient and Adam's two moments, float32
and the larger of what a step's two halves take on top
  losses       copies    2 bytes a trained weight, autocast's, where products are in bfloat16
               logits    12 float32 tensors of a chunk (`NUMBERS_PER_CHUNK`) with their gradients
               layers    24 d + 20 heads head_dim + 8 intermediate bytes per draft position and
                         layer kept for the backward pass (twice that in float32), and 3 per
                         query and key of the mask
               features  what the target says of the text, and of it in float32 and bfloat16
                         what the drafter sees
  update       4 bytes a trained weight: AdamW works on all of them at once

Not counted: what the allocator cannot use, CUDA's own half GiB, and attention scores, which
memory-efficient kernels never hold.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from drafters.module import DrafterModule
from drafters.tensor_files import TARGET_TENSORS
from drafters.training.drafter import NUMBERS_PER_CHUNK
from drafters.training.plan import TrainingPlan

_LOSS_TENSORS = 12
_TRAINED_BYTES = 16
_UPDATE_BYTES = 4


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes of one device, by what they are for."""

    target: int
    drafter: int
    copies: int
    logits: int
    layers: int
    features: int
    update: int

    @property
    def losses(self) -> int:
        """What computing gradients takes on top of weights and moments."""
        return self.copies + self.logits + self.layers + self.features

    @property
    def peak(self) -> int:
        """The most at any time."""
        return self.target + self.drafter + max(self.losses, self.update)

    def __str__(self) -> str:
        parts = (f"{field.name} {getattr(self, field.name) / 1e9:.1f}" for field in fields(self))
        return f"{self.peak / 1e9:,.1f} GB at its peak: {', '.join(parts)}"


def memory_estimate(
    plan: TrainingPlan, model: DrafterModule, *, target_weights: int, rows: int, kept_keys: int
) -> MemoryEstimate:
    """Of training `model` (which may be on the meta device), `rows` texts at a time.

    `target_weights` are all of the target's, `kept_keys` how many keys a draft position's
    attention is computed over in a text of `plan.max_tokens`.
    """
    config = model.config
    wide = 2 if plan.autocast else 4
    trained = sum(p.numel() for n, p in model.named_parameters() if n not in TARGET_TENSORS)
    positions = rows * plan.num_anchors * plan.block_size
    width = config.num_attention_heads * config.head_dim
    kept = 24 * config.hidden_size + 20 * width + 8 * config.intermediate_size
    of_block = plan.block_size * config.num_logits
    in_chunk = min(positions * config.num_logits, max(of_block, NUMBERS_PER_CHUNK))
    context = rows * longest_context(plan, plan.max_tokens)
    per_text = rows * plan.max_tokens * (config.feature_size + config.hidden_size)
    groups = config.num_attention_heads // config.num_key_value_heads
    return MemoryEstimate(
        target=wide * target_weights,
        drafter=_TRAINED_BYTES * trained,
        copies=2 * trained if plan.autocast else 0,
        logits=4 * _LOSS_TENSORS * in_chunk,
        layers=positions * (config.num_hidden_layers * kept * wide // 2 + 3 * groups * kept_keys),
        features=wide * per_text + (4 + 2) * context * config.feature_size,
        update=_UPDATE_BYTES * trained,
    )


def longest_context(plan: TrainingPlan, tokens: int) -> int:
    """Positions of context that the anchors of a text of so many tokens see between them."""
    if plan.context_tokens is None:
        return tokens
    return min(tokens, plan.context_tokens + (plan.anchor_span or tokens))
