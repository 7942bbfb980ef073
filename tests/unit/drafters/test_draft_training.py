"""Packing and losses against one anchor at a time; resumed training against uninterrupted."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drafters.training.data import BatchPlan, TextSequence, make_batch, read_sequences
from drafters.training.loop import Trainer, batch_losses, train
from drafters.training.plan import TrainingPlan
from drafters.training.target import FrozenTarget
from tests.unit.drafters.drafter_fixtures import TARGET_FIELDS, small_model

VOCABULARY = 96


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory) -> Path:
    """A tiny random Qwen3 target in Hugging Face's layout."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    directory = tmp_path_factory.mktemp("target")
    torch.manual_seed(0)
    config = Qwen3Config(**TARGET_FIELDS, initializer_range=0.3)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "answers.jsonl"
    rng = random.Random(0)
    with path.open("w") as file:
        for i in range(40):
            prompt = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(1, 6))]
            output = [rng.randrange(VOCABULARY) for _ in range(rng.randrange(2, 20))]
            row = {"prompt": prompt, "output": output, "domain": "math" if i % 2 else "chat"}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def plan(target_dir, data) -> TrainingPlan:
    return TrainingPlan(
        target_dir=str(target_dir),
        data=str(data),
        steps=6,
        num_layers=2,
        block_size=5,
        markov_rank=6,
        target_layer_ids=(-1, 2),
        batch_size=3,
        num_anchors=4,
        warmup_steps=2,
        held_out=8,
        autocast=False,
    )


def test_packed_losses_equal_one_anchor_at_a_time(target_dir, data):
    model, target = small_model(), FrozenTarget(target_dir, (-1, 2), torch.float32)
    sequences = read_sequences(data, max_tokens=64)[:5]
    batch = make_batch(sequences, 6, random.Random(1))
    got = batch_losses(model, target, batch)
    expected = reference_losses(model, target, sequences, batch.anchors)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(got, name), value, atol=1e-5, rtol=0, msg=name)


def reference_losses(model, target, sequences, anchors) -> dict[str, torch.Tensor]:
    """Equation by equation: one block, then one position, at a time."""
    gamma = model.config.block_size
    sums, norm = dict.fromkeys(("cross_entropy", "l1", "confidence"), torch.tensor(0.0)), 0.0
    lengths, greedy_lengths = [], []
    for sequence, row in zip(sequences, anchors.tolist(), strict=True):
        tokens = torch.tensor(sequence.tokens)
        features, hidden = target.read(tokens.unsqueeze(0))
        target_logits = target.logits(hidden)[0]
        for anchor in (a for a in row if a >= 0):
            keys, values = model.context_kv(features[0, :anchor], torch.arange(anchor))
            block = model.backbone(
                tokens[anchor].view(1),
                torch.tensor([anchor]),
                keys.unsqueeze(1),
                values.unsqueeze(1),
                torch.ones(1, anchor, dtype=torch.bool),
            )[0]
            survival, greedy_survival, length, greedy_length = 1.0, 1.0, 1.0, 1.0
            for k in range(1, gamma + 1):
                if anchor + k >= len(tokens):
                    break
                embed = model.markov_head.markov_w1(tokens[anchor + k - 1])
                logits = model.lm_head(block[k - 1]) + model.markov_head.markov_w2(embed)
                q = logits.softmax(-1)
                p = target_logits[anchor + k - 1].softmax(-1)
                rate = 1 - (p - q).abs().sum() / 2
                c = model.confidence_head.proj(torch.cat((block[k - 1], embed))).sigmoid()[0]
                weight = math.exp(-(k - 1) / gamma)
                norm += weight
                sums["cross_entropy"] = sums["cross_entropy"] - weight * q[tokens[anchor + k]].log()
                sums["l1"] = sums["l1"] + weight * (p - q).abs().sum()
                bce = -(rate * c.log() + (1 - rate) * (1 - c).log())
                sums["confidence"] = sums["confidence"] + weight * bce
                survival *= rate.item()
                greedy_survival *= float(p.argmax() == q.argmax())
                length, greedy_length = length + survival, greedy_length + greedy_survival
            lengths.append(length)
            greedy_lengths.append(greedy_length)
    means = {name: value / norm for name, value in sums.items()}
    total = 0.1 * means["cross_entropy"] + 0.9 * means["l1"] + 1.0 * means["confidence"]
    return means | {
        "total": total,
        "acceptance_length": torch.tensor(lengths).mean(),
        "greedy_acceptance_length": torch.tensor(greedy_lengths).mean(),
    }


def test_resumed_training_equals_uninterrupted(plan, tmp_path):
    whole = Trainer(plan)
    for _ in range(plan.steps):
        whole.train_step()
    first = Trainer(plan)
    for _ in range(3):
        first.train_step()
    first.save(tmp_path)
    second = Trainer(plan)
    assert second.resume(tmp_path)
    for _ in range(plan.steps - 3):
        second.train_step()
    states = (whole.model.state_dict(), second.model.state_dict())
    for name, weight in states[0].items():
        assert torch.equal(weight, states[1][name]), name


def test_training_changes_what_it_should_and_nothing_else(plan):
    trainer = Trainer(plan)
    before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train_step()
    changed = {n for n, w in trainer.model.state_dict().items() if not torch.equal(w, before[n])}
    assert changed == set(before) - {"embed_tokens.weight", "lm_head.weight"}


def test_a_trained_drafter_loads_beside_its_target(plan, tmp_path):
    from drafters.checkpoint import load_drafter

    lines: list[str] = []
    train(plan, tmp_path, checkpoint_every=2, report=lines.append)
    assert lines[-1].startswith("step 6/6")
    model = load_drafter(tmp_path, dtype=torch.float32, device="cpu", target_dir=plan.target_dir)
    assert model.config.block_size == plan.block_size
    record = json.loads((tmp_path / "training.json").read_text())
    assert set(record["held_out"]) == {"chat", "math"}
    assert str(Path(plan.target_dir).parent) not in (tmp_path / "training.json").read_text()


def test_another_plan_is_not_resumed(plan, tmp_path):
    trainer = Trainer(plan)
    trainer.save(tmp_path)
    with pytest.raises(ValueError, match="num_anchors 4, now 5"):
        Trainer(replace(plan, num_anchors=5)).resume(tmp_path)


def test_learning_rate_warms_up_and_falls_to_a_tenth(plan):
    rates = [replace(plan, steps=100).learning_rate_at(step) for step in (0, 1, 2, 51, 100)]
    expected = [1e-3, 2e-3, 2e-3, 1.1e-3, 2e-4]
    assert rates == pytest.approx(expected)


def test_an_epoch_has_every_sequence_once_and_repeats_by_step():
    sequences = [TextSequence((i, 1, 2, 3), 1, "") for i in range(12)]
    plan = BatchPlan(sequences, batch_size=3, num_anchors=2, seed=0)
    batches = [plan.batch(step) for step in range(8)]
    firsts = torch.stack([batch.tokens[:, 0] for batch in batches]).view(2, 12)
    assert [sorted(epoch) for epoch in firsts.tolist()] == [list(range(12))] * 2
    again = BatchPlan(sequences, batch_size=3, num_anchors=2, seed=0).batch(5)
    assert torch.equal(again.tokens, batches[5].tokens)
    assert torch.equal(again.anchors, batches[5].anchors)


def test_anchors_lie_in_the_output_and_have_a_successor():
    sequence = TextSequence(tuple(range(10)), 6, "")
    batch = make_batch([sequence], 5, random.Random(0))
    assert batch.anchors.tolist() == [[6, 7, 8, -1, -1]]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "prompt"), ("nonsense", "line"), ('{"prompt": [1], "output": [2]}', "two tokens")],
)
def test_unusable_data_is_refused(line, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_sequences(path, 64)
