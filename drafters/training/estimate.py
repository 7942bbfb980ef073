"""What a run is going to cost and may bring, from sizes alone, before it starts.

Compute, in floating-point operations:
  target    2 per parameter and token of text, and 2 T heads head_dim per layer and token for
            the scores and sums of causal attention, whose mean context is T / 2
  drafter   6 per parameter and draft position (forward 2, backward 4), 6 per parameter that
            makes context and token of context (4 of the projection of features, which need no
            gradient), and 12 K heads head_dim per layer and draft position for attention. K
            are all keys of its row, seen or not: a dense product is masked. All blocks of a
            row are computed, also where a text has fewer anchors
  LM heads  6 per parameter and draft position: the target's forward, the drafter's forward,
            and the drafter's backward to its inputs (the weights are frozen)

Of memory `drafters.training.memory_estimate` says what is counted.

Hours are that over the hardware's dense bfloat16 rate times a utilisation, which is assumed.

The speed-up is of one request at a time, where both models wait for memory and verifying a
block takes as long as one token: tau / (1 + bytes read by a draft / bytes read by a step of
the target). The acceptance length tau is not computed but assumed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch

from drafters.module import DrafterModule
from drafters.training.kinds import KINDS
from drafters.training.memory_estimate import MemoryEstimate, longest_context, memory_estimate
from drafters.training.plan import TrainingPlan

_BYTES_PER_WEIGHT = 2  # bfloat16
_OF_FEATURES = "fc."
_ALSO_CONTEXT = ("k_proj", "v_proj", "k_norm", "eh_proj")
_LOOKED_UP = ("embed_tokens.", "markov_w1.")
_BLOCK_HEADS = ("markov_head.markov_w2.", "confidence_head.")
_HEAD = "lm_head."


@dataclass(frozen=True, slots=True)
class TargetSize:
    """`num_parameters` without embedding and LM head, `head_parameters` the LM head's and
    `embedding_parameters` the embedding's, 0 where it is the head's own."""

    num_parameters: int
    head_parameters: int
    embedding_parameters: int
    num_layers: int
    attention_width: int  # heads * head_dim

    @property
    def step_bytes(self) -> int:
        """Read from memory by a decoding step."""
        return _BYTES_PER_WEIGHT * (self.num_parameters + self.head_parameters)

    @property
    def all_parameters(self) -> int:
        """Held in memory."""
        return self.num_parameters + self.head_parameters + self.embedding_parameters


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What cannot be computed: a device, and the acceptance length that training leads to.

    `memory_gb` (10^9 bytes) is None where nothing is known of it.
    """

    tflops: float
    utilisation: float
    acceptance_length: float
    memory_gb: float | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """A run's cost in floating-point operations and hours of one device, and what it brings."""

    tokens: int
    positions: int
    target_flops: float
    drafter_flops: float
    cache_bytes: int
    draft_cost: float
    memory: MemoryEstimate
    assumed: Assumptions

    @property
    def flops(self) -> float:
        """Of target and drafter."""
        return self.target_flops + self.drafter_flops

    @property
    def hours(self) -> float:
        """Of one device."""
        return self.flops / (self.assumed.tflops * 1e12 * self.assumed.utilisation) / 3600

    @property
    def speed_up(self) -> float:
        """Tokens per second over those without speculation, one request at a time."""
        return self.assumed.acceptance_length / (1 + self.draft_cost)

    @property
    def does_fit(self) -> bool:
        """Whether the device that is assumed has the memory."""
        size = self.assumed.memory_gb
        return size is None or self.memory.peak <= size * 1e9

    def __str__(self) -> str:
        assumed = self.assumed
        return "\n".join(
            [
                f"text         {self.tokens:,} tokens, {self.positions:,} draft positions",
                f"target       {self.target_flops:.2e} FLOP, forward",
                f"drafter      {self.drafter_flops:.2e} FLOP, forward and backward",
                f"hours        {self.hours:,.2f} of one device = FLOP / ({assumed.tflops:g} "
                f"TFLOP/s x utilisation {assumed.utilisation:g}, assumed)",
                f"cache        {self.cache_bytes / 1e9:,.1f} GB with --feature-cache, "
                "which saves the target's part of all epochs but one",
                f"speed-up     {self.speed_up:.2f}x at concurrency 1 = acceptance length "
                f"{assumed.acceptance_length:g} (assumed) / (1 + draft cost "
                f"{self.draft_cost:.2f}, by bytes of weights read)",
                f"memory       {self.memory}",
                *([] if self.does_fit else [self._warning]),
            ]
        )

    @property
    def _warning(self) -> str:
        return (
            f"WARNING      does not fit a device of {self.assumed.memory_gb:g} GB: give a smaller "
            "micro_batch, num_anchors, max_tokens or drafter, or a larger device"
        )


def estimate(
    plan: TrainingPlan,
    model: DrafterModule,
    target: TargetSize,
    *,
    num_rows: int,
    tokens_per_row: float,
    rows_at_once: int,
    assumed: Assumptions,
) -> Estimate:
    """Of training `model` (which may be on the meta device) over rows of such a length, so
    many of them at a time."""
    rows_seen = plan.steps * plan.batch_size
    tokens = int(rows_seen * tokens_per_row)
    anchors = min(plan.num_anchors, tokens_per_row)
    positions = int(rows_seen * anchors * plan.block_size)
    computed = rows_seen * plan.num_anchors * plan.block_size
    context = min(tokens_per_row, longest_context(plan, plan.max_tokens))
    kind = KINDS[plan.kind]
    config = model.config
    parameters = {name: p.numel() for name, p in model.named_parameters()}
    head = sum(n for name, n in parameters.items() if name.startswith(_HEAD))
    of_features = sum(n for name, n in parameters.items() if name.startswith(_OF_FEATURES))
    of_heads = sum(n for name, n in parameters.items() if name.startswith(_BLOCK_HEADS))
    skipped = (_OF_FEATURES, *_LOOKED_UP, _HEAD, *_BLOCK_HEADS)
    of_blocks = sum(n for name, n in parameters.items() if not any(s in name for s in skipped))
    of_context = sum(n for name, n in parameters.items() if any(s in name for s in _ALSO_CONTEXT))
    width = config.num_attention_heads * config.head_dim
    keys = kind.attention_keys(plan, context)
    drafter_flops = (
        computed * (6 * of_blocks + 12 * keys * width * config.num_hidden_layers)
        + positions * 6 * (of_heads + head)
        + rows_seen * context * (4 * of_features + 6 * of_context)
    )
    target_flops = tokens * (
        2 * target.num_parameters + 2 * tokens_per_row * target.attention_width * target.num_layers
    )
    reads = kind.draft_reads(model)
    draft_bytes = _BYTES_PER_WEIGHT * (reads.once + plan.block_size * reads.per_token)
    numbers_per_token = config.feature_size + config.hidden_size
    return Estimate(
        tokens=tokens,
        positions=positions,
        target_flops=target_flops,
        drafter_flops=drafter_flops,
        cache_bytes=int(num_rows * tokens_per_row * numbers_per_token * _BYTES_PER_WEIGHT),
        draft_cost=draft_bytes / target.step_bytes,
        memory=memory_estimate(
            plan,
            model,
            target_weights=target.all_parameters,
            rows=rows_at_once,
            kept_keys=round(kind.attention_keys(plan, longest_context(plan, plan.max_tokens))),
        ),
        assumed=assumed,
    )


def target_size(target_dir: str) -> TargetSize:
    """Of the target whose config.json is in `target_dir`; its weights are not read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(target_dir))
    decoder, text = model.get_decoder(), model.config.get_text_config()
    head = model.get_output_embeddings().weight.numel()
    embedding = model.get_input_embeddings().weight.numel()
    # Of Gemma 4's two kinds of layers the more frequent one's.
    head_dim = text.to_dict().get("head_dim") or text.hidden_size // text.num_attention_heads
    return TargetSize(
        num_parameters=sum(p.numel() for p in decoder.parameters()) - embedding,
        head_parameters=head,
        embedding_parameters=0 if text.tie_word_embeddings else embedding,
        num_layers=text.num_hidden_layers,
        attention_width=text.num_attention_heads * head_dim,
    )


def measured_tflops(seconds: float = 0.5, size: int = 1024) -> float:
    """This machine's rate of dense bfloat16 products, on CUDA where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size * 8 if device == "cuda" else size
    a = torch.randn(size, size, device=device).bfloat16()
    a @ a
    began, count = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        (a @ a)[0, 0].item()
        count += 1
    return 2 * size**3 * count / (time.monotonic() - began) / 1e12
