"""A tiny target, its answers and a training plan for each kind of drafter."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from drafters.training.plan import TrainingPlan
from tests.unit.drafters.drafter_fixtures import TARGET_FIELDS

VOCABULARY = 96
KIND_SETTINGS: dict[str, dict[str, Any]] = {
    "dspark": {"target_layer_ids": (-1, 2)},
    "dflash": {"target_layer_ids": (-1, 2)},
    "eagle3": {"target_layer_ids": (-1, 0, 1, 2, 4)},
    "mtp": {"target_layer_ids": (5,), "block_size": 3},
}


def write_target(directory: Path) -> Path:
    """A tiny random Qwen3 target of 6 layers in Hugging Face's layout."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    fields = {**TARGET_FIELDS, "num_hidden_layers": 6}
    config = Qwen3Config(**fields, initializer_range=0.3)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


def write_answers(path: Path, rows: int = 40) -> Path:
    """Random prompts and outputs."""
    rng = random.Random(0)
    with path.open("w") as file:
        for i in range(rows):
            prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 6))]
            output = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 20))]
            row = {"prompt": prompt, "output": output, "domain": "math" if i % 2 else "chat"}
            file.write(json.dumps(row) + "\n")
    return path


def small_plan(kind: str, target_dir: Path, data: Path, **changes: Any) -> TrainingPlan:
    settings: dict[str, Any] = {
        "target_dir": str(target_dir),
        "data": str(data),
        "steps": 6,
        "kind": kind,
        "num_layers": 2,
        "block_size": 5,
        "markov_rank": 6,
        "batch_size": 3,
        "num_anchors": 4,
        "warmup_steps": 2,
        "held_out": 8,
        "autocast": False,
    }
    return TrainingPlan(**{**settings, **KIND_SETTINGS[kind], **changes})
