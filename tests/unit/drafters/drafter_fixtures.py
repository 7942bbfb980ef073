"""A small random drafter, and steps for it."""

from __future__ import annotations

from typing import Any

import torch

from drafters.config import DrafterConfig
from drafters.dspark import DSparkModel
from drafters.engine import DraftEngine
from drafters.messages import StepBatch, StepRow

BLOCK_TOKENS = 4
FIELDS: dict[str, Any] = {
    "architectures": ["Qwen3DSparkModel"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 48,
    "vocab_size": 96,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "block_size": 5,
    "mask_token_id": 3,
    "target_layer_ids": [-1, 2],
    "num_target_layers": 4,
    "markov_rank": 6,
    "markov_head_type": "vanilla",
    "enable_confidence_head": True,
    "confidence_head_with_markov": True,
}
TARGET_FIELDS: dict[str, Any] = {
    **{k: FIELDS[k] for k in list(FIELDS)[1:10] if k != "num_hidden_layers"},
    "num_hidden_layers": 4,
    "tie_word_embeddings": True,
    "pad_token_id": 7,
}


def small_model(**changes: Any) -> DSparkModel:
    model = DSparkModel(DrafterConfig.from_dict({**FIELDS, **changes}, "test"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


def small_engine(num_blocks: int = 64, window: int = 64) -> DraftEngine:
    return DraftEngine(
        small_model(), num_blocks=num_blocks, block_tokens=BLOCK_TOKENS, num_context_tokens=window
    )


def features(seed: int, num_rows: int) -> torch.Tensor:
    """Features of positions 0 .. num_rows - 1 of the prompt named by `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(512, 64, generator=generator)[:num_rows]


def hashes(seed: int, start: int, end: int) -> tuple[bytes, ...]:
    """Prefix hashes of the full blocks from `start`'s to the last before `end`."""
    return tuple(b"%d/%d" % (seed, b) for b in range(start // BLOCK_TOKENS, end // BLOCK_TOKENS))


def step(
    start: int,
    end: int,
    *,
    seed: int = 0,
    request: str = "r",
    target: str = "t",
    epoch: int = 0,
    anchor: int | None = 9,
    named: int | None = None,
    closed: tuple[str, ...] = (),
) -> StepBatch:
    """One row's step over positions start .. end; `named` is the first position to hash."""
    row = StepRow(
        request,
        epoch,
        start,
        end - start,
        anchor,
        0 if named is None else named // BLOCK_TOKENS,
        () if named is None else hashes(seed, named, end),
    )
    return StepBatch(target, (row,), features(seed, end)[start:], closed)


def drafted_from(seed: int, positions: list[int], start: int, anchor: int = 9) -> Any:
    """The plain twin: a draft at `start` from exactly these context positions."""
    model = small_model()
    with torch.inference_mode():
        k, v = model.context_kv(features(seed, 512)[positions], torch.tensor(positions))
        return model.draft(
            torch.tensor([anchor]),
            torch.tensor([start]),
            k.unsqueeze(1),
            v.unsqueeze(1),
            torch.ones(1, len(positions), dtype=torch.bool),
            with_logits=True,
        )
