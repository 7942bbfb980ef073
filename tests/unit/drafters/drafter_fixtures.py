"""A small random drafter, and steps for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from drafters.checkpoint import empty_model
from drafters.config import DrafterConfig, NgramConfig
from drafters.dspark import DSparkModel
from drafters.engine import DraftEngine
from drafters.interface import DraftInputs
from drafters.messages import StepBatch, StepRow
from drafters.ngram import NgramModel

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


GEMMA4: dict[str, Any] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 4,
    "global_head_dim": 8,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "final_logit_softcapping": 30.0,
    "rope_parameters": {
        "full_attention": {
            "rope_type": "proportional",
            "partial_rotary_factor": 0.5,
            "rope_theta": 10000.0,
        },
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    },
}
EAGLE3: dict[str, Any] = {
    "num_hidden_layers": 1,
    "num_target_layers": 7,
    "target_layer_ids": [0, 1, 2, 4, 5],
    "ttt_length": 5,
}
# Every kind of drafter, as changes of FIELDS.
KINDS: dict[str, dict[str, Any]] = {
    "vanilla": {},
    "gated": {"markov_head_type": "gated"},
    "rnn": {"markov_head_type": "rnn", "confidence_head_with_markov": False},
    "dflash": {"markov_rank": 0, "enable_confidence_head": False},
    "gemma4": {"architectures": ["Gemma4DSparkModel"], **GEMMA4},
    "eagle3": {"architectures": ["Qwen3Eagle3Model"], **EAGLE3},
    "gemma4_eagle3": {"architectures": ["Gemma4Eagle3Model"], **GEMMA4, **EAGLE3},
    "mtp": {
        "architectures": ["Qwen3MTPModel"],
        "num_hidden_layers": 1,
        "target_layer_ids": [3],
        "block_size": 3,
    },
    "ngram": {"architectures": ["NgramDrafter"]},
}


def small_model(**changes: Any) -> DSparkModel:
    model = DSparkModel(DrafterConfig.from_dict({**FIELDS, **changes}, "test"))
    fill(model)
    return model.eval()


def fill(model: torch.nn.Module, seed: int = 0) -> None:
    """Random weights."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def small_drafter(kind: str, **changes: Any) -> Any:
    """A drafter of one of KINDS with random weights."""
    config = DrafterConfig.from_dict({**FIELDS, **KINDS[kind], **changes}, "test")
    if isinstance(config, NgramConfig):
        return NgramModel(config, "cpu")
    model = empty_model(config).to_empty(device="cpu")
    for buffer in model.buffers():
        torch.nn.init.constant_(buffer, 0.7)  # a Gemma 4 layer's scalar
    fill(model)
    return model.requires_grad_(False).eval()


def write_checkpoint(directory: Path, tensors: dict[str, torch.Tensor], **changes: Any) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "config.json").write_text(json.dumps({**FIELDS, **changes}))
    save_file(tensors, directory / "model.safetensors")
    return directory


def engine_of(
    model: Any, num_blocks: int = 64, window: int = 64, num_candidates: int = 32
) -> DraftEngine:
    return DraftEngine(
        model,
        num_blocks=num_blocks,
        block_tokens=BLOCK_TOKENS,
        num_context_tokens=window,
        num_candidates=num_candidates,
        seed=0,
    )


def text(seed: int, length: int = 512) -> torch.Tensor:
    """Token ids of the prompt named by `seed`."""
    return torch.randint(0, 96, (512,), generator=torch.Generator().manual_seed(seed))[:length]


def step_of(
    model: Any,
    start: int,
    end: int,
    *,
    seed: int = 0,
    request: str = "r",
    target: str = "t",
    epoch: int = 0,
    drafts: bool = True,
    named: int | None = None,
    temperature: float = 0.0,
    closed: tuple[str, ...] = (),
) -> StepBatch:
    """A step of whatever the drafter needs over positions start .. end of a prompt."""
    tokens = text(seed)
    row = StepRow(
        request,
        epoch,
        start,
        end - start,
        int(tokens[end]) if drafts else None,
        0 if named is None else named // BLOCK_TOKENS,
        () if named is None else hashes(seed, named, end),
        temperature,
        tuple(tokens[start + 1 : end + 1].tolist()) if model.config.needs_tokens else (),
    )
    rows = wide_features(seed, end, model.config.feature_size)[start:]
    return StepBatch(target, (row,), rows, closed)


def wide_features(seed: int, num_rows: int, width: int) -> torch.Tensor:
    """Features of any width of positions 0 .. num_rows - 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(512, width, generator=generator)[:num_rows]


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
        inputs = DraftInputs(
            torch.tensor([anchor]),
            torch.tensor([start]),
            k.unsqueeze(1),
            v.unsqueeze(1),
            torch.ones(1, len(positions), dtype=torch.bool),
        )
        return model.draft(inputs, with_logits=True)
