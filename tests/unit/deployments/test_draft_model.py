"""Drafters of other kinds, from a Serve file's settings to the engine that runs them."""

import json
from pathlib import Path

import pytest
import torch

from deployments.draft_model import check_drafter, make_draft_engine
from deployments.errors import ConfigError
from deployments.schema import parse_settings
from drafters.messages import StepBatch, StepRow

TARGET = "models/demo-target"


def model(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    drafter = {"source": str(tmp_path), "dtype": "float32"}
    spec = {"id": "m", "placement": "colocated", "target": {"source": TARGET}, "drafter": drafter}
    return parse_settings({"models": [spec]}).models[0]


def test_ngram_lookup_needs_tokens_and_neither_features_nor_weights(tmp_path):
    found = model(tmp_path, architectures=["NgramDrafter"], vocab_size=8192, block_size=4)
    shape = check_drafter(found)
    assert (shape.block_size, shape.target_layer_ids, shape.needs_tokens) == (4, (), True)
    engine = make_draft_engine(
        found.drafter.model_dump(),
        target_dir=TARGET,
        dtype="float32",
        device=torch.device("cpu"),
        block_tokens=32,
        num_context_tokens=64,
        context_bytes=1 << 20,
    )
    row = StepRow("r", 1, 0, 5, anchor=2, tokens=(1, 2, 3, 1, 2))
    (drafts,) = engine.step([StepBatch("t", (row,), torch.empty(5, 0))])
    assert drafts.tokens.tolist() == [[3, 1, 2, 3]]


def test_a_drafter_that_reads_the_last_layer_is_refused_by_name(tmp_path):
    target = json.loads(Path(TARGET, "config.json").read_text())
    layers = target["num_hidden_layers"]
    fields = target | {
        "architectures": ["Qwen3MTPModel"],
        "num_hidden_layers": 1,
        "num_target_layers": layers,
        "target_layer_ids": [layers - 1],
        "block_size": 1,
        "layer_types": None,
    }
    with pytest.raises(ConfigError, match=r"target_layer_ids \[7\].*last layer"):
        check_drafter(model(tmp_path, **fields))
