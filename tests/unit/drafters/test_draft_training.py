"""Runs of every kind: resumed against uninterrupted, what they change, what they refuse."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import tracemalloc
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
import torch

from drafters.checkpoint import load_drafter
from drafters.errors import CheckpointError
from drafters.training import checkpoints
from drafters.training.checkpoints import FILE_NAME, VERSION, read_checkpoint, write_checkpoint
from drafters.training.data import (
    BatchPlan,
    TextSequence,
    make_batch,
    read_sequences,
    split_held_out,
)
from drafters.training.kinds import KINDS
from drafters.training.loop import RunOptions, train
from drafters.training.plan import TrainingPlan
from drafters.training.trainer import Trainer
from tests.unit.drafters.training_fixtures import small_plan, write_answers, write_target


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory) -> Path:
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_answers(tmp_path_factory.mktemp("data") / "answers.jsonl")


@pytest.fixture(params=KINDS)
def plan(request, target_dir, data) -> TrainingPlan:
    return small_plan(request.param, target_dir, data)


@pytest.fixture
def dspark_plan(target_dir, data) -> TrainingPlan:
    return small_plan("dspark", target_dir, data)


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


def test_losses_fall_on_text_seen_over_and_over(plan):
    trainer = Trainer(replace(plan, steps=30, learning_rate=1e-2))
    batch = trainer.batches.batch(0)
    trainer.batches.batch = lambda step: batch  # type: ignore[method-assign]
    losses = [trainer.train_step().means()["total"] for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]


def test_a_trained_drafter_loads_beside_its_target(plan, tmp_path):
    lines: list[str] = []
    assert train(plan, tmp_path, lines.append, RunOptions(checkpoint_every=2))
    assert lines[-2].startswith("step 6/6")
    assert "tokens of text" in lines[-1]
    model = load_drafter(tmp_path, dtype=torch.float32, device="cpu", target_dir=plan.target_dir)
    assert model.config.block_size == plan.block_size
    assert model.config.target_layer_ids == plan.target_layer_ids
    files = [tmp_path / name for name in ("config.json", "model.safetensors")]
    assert len({path.stat().st_mode for path in files}) == 1
    record = json.loads((tmp_path / "training.json").read_text())
    assert set(record["held_out"]) == {"chat", "math"}
    assert record["positions"] > 0
    assert str(Path(plan.target_dir).parent) not in (tmp_path / "training.json").read_text()
    weights = tmp_path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the weights whose SHA-256"):
        load_drafter(tmp_path, dtype=torch.float32, device="cpu", target_dir=plan.target_dir)


def test_a_trained_drafter_goes_on_with_other_text(plan, tmp_path):
    assert train(plan, tmp_path, print)
    trained = load_drafter(
        tmp_path, dtype=torch.float32, device="cpu", target_dir=plan.target_dir
    ).state_dict()
    again = replace(plan, start_from=str(tmp_path), seed=1)
    for name, weight in Trainer(again).model.state_dict().items():
        assert torch.equal(weight, trained[name]), name
    with pytest.raises(CheckpointError, match=r"block_size is ., the drafter to be trained has 4"):
        Trainer(replace(again, block_size=4))


def test_a_run_told_to_stop_keeps_what_it_has_done(dspark_plan, tmp_path):
    def terminate(line: str) -> None:
        if line.startswith("step 10/"):
            os.kill(os.getpid(), signal.SIGTERM)

    longer, lines = replace(dspark_plan, steps=14), []
    before = signal.getsignal(signal.SIGTERM)
    assert not train(longer, tmp_path, terminate, RunOptions(checkpoint_every=1000))
    assert signal.getsignal(signal.SIGTERM) is before
    assert train(longer, tmp_path, lines.append, RunOptions(checkpoint_every=1000))
    assert lines[0] == "resuming at step 10"


def test_another_plan_is_not_resumed(dspark_plan, tmp_path):
    Trainer(dspark_plan).save(tmp_path)
    with pytest.raises(CheckpointError, match="num_anchors 4, now 5"):
        Trainer(replace(dspark_plan, num_anchors=5)).resume(tmp_path)


def test_a_run_goes_on_where_everything_was_moved(dspark_plan, tmp_path):
    Trainer(dspark_plan).save(tmp_path)
    target, data = tmp_path / "elsewhere", tmp_path / "moved.jsonl"
    shutil.copytree(dspark_plan.target_dir, target)
    shutil.copyfile(dspark_plan.data, data)
    moved = replace(dspark_plan, target_dir=str(target), data=str(data))
    assert Trainer(moved).resume(tmp_path)
    config = target / "config.json"
    config.write_text(config.read_text() + "\n")  # as other weights are, to its fingerprint
    with pytest.raises(CheckpointError, match="other weights than the run was begun with"):
        Trainer(moved).resume(tmp_path)


def test_a_run_goes_on_from_its_own_beginning_alone(dspark_plan, tmp_path):
    for seed in (0, 1):
        assert train(replace(dspark_plan, steps=1, seed=seed), tmp_path / f"drafter {seed}", print)
    one, other = (replace(dspark_plan, start_from=str(tmp_path / f"drafter {i}")) for i in (0, 1))
    run = tmp_path / "run"
    run.mkdir()
    Trainer(one).save(run)
    shutil.copytree(tmp_path / "drafter 0", tmp_path / "moved")
    assert Trainer(replace(one, start_from=str(tmp_path / "moved"))).resume(run)
    for changed in (other, dspark_plan):
        with pytest.raises(CheckpointError, match=r"begun from drafter \w+, but start_from is"):
            Trainer(changed).resume(run)


def test_what_a_checkpoint_holds_belongs_to_its_version(dspark_plan, tmp_path):
    Trainer(dspark_plan).save(tmp_path)
    state = read_checkpoint(tmp_path)
    assert state is not None
    named = "version plan data target start_from step model optimizer progress best"
    of_progress = "loss acceptance_length seconds tokens positions history evaluations"
    assert (VERSION, list(state), list(state["progress"]), len(state["plan"])) == (
        3,
        named.split(" "),
        of_progress.split(" "),
        26,
    )


def test_a_checkpoint_of_another_version_is_refused(dspark_plan, tmp_path, monkeypatch):
    trainer = Trainer(dspark_plan)
    monkeypatch.setattr(checkpoints, "VERSION", VERSION + 1)
    trainer.save(tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=f"of version {VERSION + 1}, here {VERSION}"):
        trainer.resume(tmp_path)
    # As versions wrote it that had none.
    content = BytesIO()
    torch.save({"step": 3}, content)
    digest = hashlib.sha256(content.getvalue()).digest()
    (tmp_path / FILE_NAME).write_bytes(digest + content.getvalue())
    with pytest.raises(
        CheckpointError, match=rf"another version .* version 1, here {VERSION}.* directory"
    ):
        trainer.resume(tmp_path)


@pytest.mark.parametrize("head", ["vanilla", "gated", "rnn"])
def test_losses_in_bfloat16_are_those_of_float32_but_for_rounding(target_dir, data, head):
    exact = small_plan("dspark", target_dir, data, markov_head_type=head)
    rounded = Trainer(replace(exact, autocast=True))
    whole = Trainer(exact)
    batch = whole.batches.batch(0)
    expected = whole.losses(batch).means()
    for name, value in rounded.losses(batch).means().items():
        assert value == pytest.approx(expected[name], rel=0.02), name
    before = {name: p.detach().clone() for name, p in rounded.model.named_parameters()}
    rounded.train_step()
    for name, parameter in rounded.model.named_parameters():
        if parameter.requires_grad:
            assert parameter.dtype == torch.float32, name
            assert torch.isfinite(parameter).all(), name
            assert not torch.equal(parameter, before[name]), name


def test_held_out_rows_take_no_more_room_than_training(dspark_plan, monkeypatch):
    sizes: list[int] = []
    one, many = Trainer(dspark_plan, micro_batch=1), Trainer(dspark_plan)
    losses = one.losses

    def counted(batch):
        sizes.append(len(batch.lengths))
        return losses(batch)

    monkeypatch.setattr(one, "losses", counted)
    found, expected = one.evaluate(), many.evaluate()
    assert set(sizes) == {1}
    for domain in expected:
        assert found[domain] == pytest.approx(expected[domain], rel=1e-5)


def test_what_is_held_out_does_not_depend_on_when_answers_came(data):
    sequences = read_sequences(data, 512)
    trained_on, held_out = split_held_out(sequences, 8)
    assert len(held_out) == 8
    assert sorted(one.row for one in [*trained_on, *held_out]) == list(range(len(sequences)))
    renumbered = [replace(one, row=i) for i, one in enumerate(reversed(sequences))]
    again = split_held_out(renumbered, 8)[1]
    assert sorted(list(one.tokens) for one in again) == sorted(list(o.tokens) for o in held_out)
    assert {one.row for one in held_out} != set(range(len(sequences) - 8, len(sequences)))


def test_all_answers_of_a_prompt_are_held_out_or_none():
    sequences = [
        TextSequence((prompt, 7, answer, 3), 2, "", row=prompt * 5 + answer)
        for prompt in range(30)
        for answer in range(1 + prompt % 4)  # one to four answers of each
    ]
    trained_on, held_out = split_held_out(sequences, 20)
    assert len(held_out) == 20
    assert len(trained_on) == len(sequences) - 20
    asked = [{tuple(one.tokens[:2]) for one in rows} for rows in (trained_on, held_out)]
    assert not asked[0] & asked[1]


def test_held_out_rows_fall_short_by_less_than_a_prompts_answers(dspark_plan, tmp_path):
    sequences = [TextSequence((i // 3, i % 3, 2, 3), 1, "", row=i) for i in range(30)]
    assert [len(split_held_out(sequences, n)[1]) for n in (2, 3, 8, 9)] == [0, 3, 6, 9]
    data = tmp_path / "answers.jsonl"
    rows = [{"prompt": [i // 20], "output": [i, 1, 2]} for i in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="every prompt has more than 8 answers"):
        Trainer(replace(dspark_plan, data=str(data)))


def test_a_checkpoint_is_written_without_a_copy_of_the_whole(tmp_path):
    state = {f"weight {i}": torch.full((1 << 18,), float(i)) for i in range(16)}  # 1 MiB each
    tracemalloc.start()
    write_checkpoint(tmp_path, state)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
    found = read_checkpoint(tmp_path)
    assert found is not None
    for name, weight in state.items():
        assert torch.equal(found[name], weight)


def test_an_interrupted_write_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    def fail(*args: object) -> None:
        raise OSError("disk full")

    write_checkpoint(tmp_path, {"step": 1})
    monkeypatch.setattr(checkpoints.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_checkpoint(tmp_path, {"step": 2})
    found = read_checkpoint(tmp_path)
    assert found is not None
    assert found["step"] == 1


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_checkpoint_is_refused(damage, dspark_plan, tmp_path):
    trainer = Trainer(dspark_plan)
    trainer.save(tmp_path)
    path = tmp_path / FILE_NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes({"cut": content[:-9], "flip": content, "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"training.pt: truncated or altered .* remove it"):
        trainer.resume(tmp_path)


def test_learning_rate_warms_up_and_falls_to_a_tenth(dspark_plan):
    rates = [replace(dspark_plan, steps=100).learning_rate_at(step) for step in (0, 1, 2, 51, 100)]
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


def test_anchors_of_a_long_text_lie_within_the_span():
    sequence = TextSequence(tuple(range(1000)), 6, "")
    spans = []
    for seed in range(20):
        anchors = make_batch([sequence], 8, random.Random(seed), anchor_span=16).anchors[0]
        assert len(set(anchors.tolist())) == 8
        assert int(anchors[0]) >= 6
        assert int(anchors[-1]) <= 998
        spans.append(int(anchors[-1] - anchors[0]))
    assert max(spans) < 16


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "prompt"), ("nonsense", "line"), ('{"prompt": [1], "output": [2]}', "two tokens")],
)
def test_unusable_data_is_refused(line, message, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(ValueError, match=message):
        read_sequences(path, 64)
