"""Drafters of a Gemma 4 target: what the target says, and that they learn from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from drafters.checkpoint import load_drafter
from drafters.training.loop import RunOptions, train
from drafters.training.target import FrozenTarget
from tests.unit.drafters.training_fixtures import small_plan, write_answers


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory) -> Path:
    """Six layers, every third with full attention; logits capped, keys as values."""
    from transformers import Gemma4ForCausalLM, Gemma4TextConfig

    directory: Path = tmp_path_factory.mktemp("gemma4")
    torch.manual_seed(0)
    config = Gemma4TextConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_global_key_value_heads=1,
        head_dim=8,
        global_head_dim=16,
        attention_k_eq_v=True,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"] * 2,
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        final_logit_softcapping=5.0,
        initializer_range=0.3,
        pad_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=True,
    )
    Gemma4ForCausalLM(config).save_pretrained(directory)
    return directory


def test_the_target_says_what_transformers_would(target_dir):
    from transformers import AutoModelForCausalLM

    tokens = torch.arange(2, 12).unsqueeze(0)
    target = FrozenTarget(target_dir, (-1, 2), torch.float32)
    states = target.read(tokens)
    plain = AutoModelForCausalLM.from_pretrained(str(target_dir), dtype=torch.float32)
    wanted = plain(tokens, output_hidden_states=True)
    torch.testing.assert_close(target.logits(states.last_hidden), wanted.logits)
    hidden = torch.cat((wanted.hidden_states[0], wanted.hidden_states[3]), dim=-1)
    torch.testing.assert_close(states.features, hidden)


@pytest.mark.parametrize("kind", ["dspark", "dflash", "eagle3"])
def test_drafters_of_gemma4_train_and_load(kind, target_dir, tmp_path):
    data = write_answers(tmp_path / "answers.jsonl")
    plan = small_plan(kind, target_dir, data, learning_rate=1e-2, steps=12)
    lines: list[str] = []
    assert train(plan, tmp_path / "drafter", lines.append, RunOptions())
    model = load_drafter(
        tmp_path / "drafter", dtype=torch.float32, device="cpu", target_dir=target_dir
    )
    assert model.config.family == "gemma4"
