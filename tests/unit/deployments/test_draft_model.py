"""Drafters of other kinds, from a Serve file's settings to the engine that runs them."""

import json
from pathlib import Path

import torch

from deployments.draft_model import check_drafter, make_draft_engine
from deployments.schema import parse_settings
from drafters.messages import DraftShape, StepBatch, StepRow

TARGET = "models/demo-target"


def model(tmp_path, **config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    drafter = {"source": str(tmp_path), "dtype": "float32"}
    spec = {"id": "m", "placement": "colocated", "target": {"source": TARGET}, "drafter": drafter}
    return parse_settings({"models": [spec]}).models[0]


def engine_of(found):
    return make_draft_engine(
        found.drafter.model_dump(),
        target_dir=TARGET,
        dtype="float32",
        device=torch.device("cpu"),
        block_tokens=32,
        num_context_tokens=64,
        context_bytes=1 << 20,
    )


def test_ngram_lookup_needs_tokens_and_neither_features_nor_weights(tmp_path):
    found = model(tmp_path, architectures=["NgramDrafter"], vocab_size=8192, block_size=4)
    shape = check_drafter(found)
    assert (shape.block_size, shape.target_layer_ids, shape.needs_tokens) == (4, (), True)
    engine = engine_of(found)
    row = StepRow("r", 1, 0, 5, anchor=2, tokens=(1, 2, 3, 1, 2))
    (drafts,) = engine.step([StepBatch("t", (row,), torch.empty(5, 0))])
    assert drafts.tokens.tolist() == [[3, 1, 2, 3]]


def test_ngram_lookup_needs_no_checkpoint():
    spec = {"ngram": {"block_size": 4, "max_match": 2}}
    model = {"id": "m", "placement": "colocated", "target": {"source": TARGET}, "drafter": spec}
    found = parse_settings({"models": [model]}).models[0]
    shape = check_drafter(found)
    assert (shape.block_size, shape.target_layer_ids, shape.needs_tokens) == (4, (), True)
    engine = engine_of(found)
    assert engine.model.config.shape == DraftShape(0, 4, needs_tokens=True)
    assert (engine.model.config.min_match, engine.model.config.max_match) == (1, 2)


def test_sampled_drafts_are_drawn_from_as_many_tokens_as_the_settings_say():
    drafter = {"source": "models/demo-drafter", "dtype": "float32", "num_candidates": 5}
    model = {"id": "m", "placement": "colocated", "target": {"source": TARGET}, "drafter": drafter}
    found = parse_settings({"models": [model]}).models[0]
    engine = engine_of(found)
    row = StepRow("r", 1, 0, 4, anchor=7, temperature=1.0)
    features = torch.zeros(4, engine.model.config.feature_size)
    (drafts,) = engine.step([StepBatch("t", (row,), features)])
    assert drafts.distribution is not None
    assert drafts.distribution.probs.shape == (1, engine.model.config.block_size, 5)


def test_mtp_reads_the_last_layer(tmp_path):
    target = json.loads(Path(TARGET, "config.json").read_text())
    layers = target["num_hidden_layers"]
    fields = target | {
        "architectures": ["Qwen3MTPModel"],
        "num_hidden_layers": 1,
        "num_target_layers": layers,
        "target_layer_ids": [layers - 1],
        "block_size": 2,
        "layer_types": None,
    }
    shape = check_drafter(model(tmp_path, **fields))
    assert (shape.block_size, shape.target_layer_ids, shape.needs_tokens) == (2, (7,), True)
