"""A LoRA adapter for the demo target, made as the tests need it."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

HIDDEN, LAYERS, RANK = 384, 8, 4


def write_adapter(directory: Path) -> Path:
    """A LoRA adapter of the demo target that changes what it says."""
    config = json.loads(Path("models/demo-target/config.json").read_text())
    assert (config["hidden_size"], config["num_hidden_layers"]) == (HIDDEN, LAYERS)
    width = config["num_attention_heads"] * config["head_dim"]
    random = torch.Generator().manual_seed(3)
    weights = {}
    for layer in range(LAYERS):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(RANK, HIDDEN, generator=random)
        weights[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=random)
    directory.mkdir()
    save_file(weights, directory / "adapter_model.safetensors")
    fields = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": ["q_proj"],
        "bias": "none",
    }
    (directory / "adapter_config.json").write_text(json.dumps(fields))
    return directory
