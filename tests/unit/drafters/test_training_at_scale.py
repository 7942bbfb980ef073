"""Accumulation, several workers, early stopping and the feature cache."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from drafters.training import drafter, feature_cache
from drafters.training.drafter import batch_losses
from drafters.training.feature_cache import cache_bytes
from drafters.training.kinds import KINDS
from drafters.training.loop import RunOptions, train
from drafters.training.plan import TrainingPlan
from drafters.training.progress import Progress
from drafters.training.trainer import Trainer
from drafters.training.workers import messages
from tests.unit.drafters.training_fixtures import (
    VOCABULARY,
    small_plan,
    write_answers,
    write_target,
)


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


def gradients_of(trainer: Trainer, steps: int) -> list[tuple[dict[str, float], dict]]:
    """Losses and gradients of each step."""
    taken = []
    for _ in range(steps):
        losses = trainer.train_step().means()
        named = trainer.model.named_parameters()
        gradients = {name: p.grad.clone() for name, p in named if p.grad is not None}
        taken.append((losses, gradients))
    return taken


def assert_same_steps(one, other) -> None:
    for (losses, gradients), (other_losses, other_gradients) in zip(one, other, strict=True):
        assert losses == pytest.approx(other_losses, abs=1e-5)
        assert gradients.keys() == other_gradients.keys()
        for name, gradient in gradients.items():
            wanted = other_gradients[name]
            torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=0, msg=name)


@pytest.fixture
def resting(plan) -> TrainingPlan:
    """Weights that stay: AdamW's first steps turn rounding in a tiny gradient into a whole step."""
    return replace(plan, learning_rate=0.0)


def test_accumulated_gradients_are_those_of_the_whole_batch(resting):
    whole = gradients_of(Trainer(resting), 3)
    for micro_batch in (1, 2):
        assert_same_steps(whole, gradients_of(Trainer(resting, micro_batch=micro_batch), 3))


def test_losses_of_a_few_blocks_at_a_time_are_those_of_all(plan):
    trainer = Trainer(plan)
    batch = trainer.batches.batch(0)
    found = []
    for numbers in (1, 2 * plan.block_size * VOCABULARY, 1 << 27):  # 1 block, 2, all
        trainer.model.zero_grad(set_to_none=True)
        losses = batch_losses(
            trainer.model, trainer.target, batch, plan,
            gradients_over=torch.tensor(7.0), numbers_per_chunk=numbers,
        )  # fmt: skip
        named = trainer.model.named_parameters()
        found.append((losses.means(), {n: p.grad for n, p in named if p.grad is not None}))
    assert_same_steps(found[:1], found[2:])
    assert_same_steps(found[1:2], found[2:])


def test_nothing_wider_than_a_chunk_is_as_wide_as_the_vocabulary(dspark_plan, monkeypatch):
    sizes: list[int] = []
    plain = drafter.DraftDistances

    def measured(logits, target_logits, labels, confidence_logits):
        sizes.append(logits.numel())
        return plain(logits, target_logits, labels, confidence_logits)

    monkeypatch.setattr(drafter, "DraftDistances", measured)
    trainer, limit = Trainer(dspark_plan), 3 * dspark_plan.block_size * VOCABULARY
    batch_losses(
        trainer.model, trainer.target, trainer.batches.batch(0), dspark_plan,
        numbers_per_chunk=limit,
    )  # fmt: skip
    assert len(sizes) > 1
    assert max(sizes) == limit


@pytest.mark.parametrize("autocast", [False, True])
def test_embedding_and_head_are_held_once(plan, autocast):
    trainer = Trainer(replace(plan, autocast=autocast))
    model, target = trainer.model, trainer.target
    assert model.embed_tokens.weight is target.embedding
    assert model.lm_head.weight is target.lm_head
    assert model.dtype == torch.float32
    assert target.embedding.dtype == (torch.bfloat16 if autocast else torch.float32)
    trainer.train_step()
    assert model.embed(torch.tensor([1])).dtype == torch.float32


def test_gradients_travel_in_messages_of_a_bounded_size():
    tensors = [torch.zeros(size) for size in (3, 4, 5, 12, 1, 1)]
    sizes = [[len(tensor) for tensor in some] for some in messages(tensors, limit=9)]
    assert sizes == [[3, 4], [5], [12], [1, 1]]


class ThreadWorkers:
    """Workers in threads of one process."""

    def __init__(self, rank: int, count: int, meeting: Meeting) -> None:
        self.rank, self.count, self._meeting = rank, count, meeting

    def add_up(self, tensors) -> None:
        mine = self._meeting.tensors
        mine[self.rank] = [t.clone() for t in tensors]
        self.wait()
        for i, tensor in enumerate(tensors):
            tensor.copy_(sum(mine[rank][i] for rank in range(self.count)))
        self.wait()

    def wait(self) -> None:
        self._meeting.barrier.wait()


class Meeting:
    def __init__(self, count: int) -> None:
        self.barrier = threading.Barrier(count, timeout=60)
        self.tensors: dict[int, list[torch.Tensor]] = {}


@pytest.mark.parametrize("count", [2, 4])  # of a batch of 3, so that one of 4 has no part
def test_several_workers_take_the_steps_of_one(count, dspark_plan, tmp_path):
    resting = replace(dspark_plan, learning_rate=0.0)
    meeting = Meeting(count)
    trainers = [
        Trainer(resting, workers=ThreadWorkers(rank, count, meeting)) for rank in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        runs = list(pool.map(lambda trainer: gradients_of(trainer, 3), trainers))
        held_out = list(pool.map(lambda trainer: trainer.evaluate(), trainers))
    alone = Trainer(resting)
    expected = gradients_of(alone, 3)
    for run in runs:
        assert_same_steps(run, expected)
    wanted = alone.evaluate()
    for found in held_out:
        for domain, means in wanted.items():
            assert found[domain] == pytest.approx(means, abs=1e-4)


def test_a_run_ends_when_held_out_text_gains_nothing(dspark_plan, tmp_path):
    """At a rate of nearly zero nothing gains, so the first evaluation stays the best."""
    patient = replace(
        dspark_plan, steps=50, learning_rate=1e-12, evaluate_every=2, patience=3, weight_decay=0.0
    )
    lines: list[str] = []
    assert train(patient, tmp_path, lines.append)
    assert any(
        line == "weights of step 2, the best held out" for line in "\n".join(lines).split("\n")
    )
    assert "8 steps" in lines[-1]


def test_the_best_weights_come_out_also_of_a_resumed_run(dspark_plan, tmp_path):
    evaluated = replace(dspark_plan, evaluate_every=1)
    trainer = Trainer(evaluated)
    trainer.train_step()
    trainer.evaluate_on_the_way()
    best = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
    trainer.train_step()
    trainer.progress.evaluations.append({"step": 2, "acceptance_length": 0.0})
    trainer.save(tmp_path)
    again = Trainer(evaluated)
    again.resume(tmp_path)
    again.take_best_weights()
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, best[name]), name


@pytest.mark.parametrize(
    ("lengths", "patience", "stalled"),
    [
        ([], 1, False),
        ([2.0], 1, False),
        ([2.0, 2.0], 1, True),
        ([2.0, 2.1], 1, False),
        ([2.0, 2.1, 2.0], 2, False),
        ([2.0, 2.1, 2.0, 2.05], 2, True),
        ([2.0, 1.0, 1.0, 1.0], None, False),
    ],
)
def test_a_stall_is_patience_evaluations_after_the_best(lengths, patience, stalled):
    evaluations = [{"step": i, "acceptance_length": a} for i, a in enumerate(lengths)]
    assert Progress(evaluations=evaluations).has_stalled(patience) is stalled


def test_patience_without_evaluations_is_refused(dspark_plan):
    with pytest.raises(ValueError, match="needs evaluate_every"):
        replace(dspark_plan, patience=2)


@pytest.fixture
def small_parts(monkeypatch) -> None:
    monkeypatch.setattr(feature_cache, "ROWS_PER_PART", 7)


def test_cached_features_train_the_same_drafter(resting, tmp_path, small_parts):
    fresh = gradients_of(Trainer(resting), 3)
    for _ in range(2):  # filled, then found
        trainer = Trainer(resting)
        trainer.use_cache(tmp_path)
        assert_same_steps(fresh, gradients_of(trainer, 3))
    assert len(list(tmp_path.glob("features-*.parquet"))) == 6


def test_an_interrupted_cache_is_filled_up(dspark_plan, tmp_path, small_parts):
    trainer = Trainer(dspark_plan)
    trainer.use_cache(tmp_path)
    first, second, *_ = sorted(tmp_path.glob("features-*.parquet"))
    second.unlink()
    kept = first.stat().st_mtime_ns
    Trainer(dspark_plan).use_cache(tmp_path)
    assert second.exists()
    assert first.stat().st_mtime_ns == kept


def test_workers_fill_a_cache_whatever_the_others_have_written(dspark_plan, tmp_path, small_parts):
    trainer = Trainer(dspark_plan)
    alone, rows, target = tmp_path / "alone", trainer.sequences, trainer.target
    feature_cache.FeatureCache(alone, {"dtype": "torch.float32"}).fill(rows, target, 0, 1)
    together = feature_cache.FeatureCache(tmp_path / "two", {"dtype": "torch.float32"})
    # The second worker begins when the first has ended: it finds every second part there.
    for rank in (0, 1):
        together.fill(rows, target, rank, 2)
    assert len(list(alone.iterdir())) == 6
    for path in alone.iterdir():
        assert (tmp_path / "two" / path.name).read_bytes() == path.read_bytes()
    together.opened(rows, trainer.device)


def test_the_size_of_a_cache_is_known_beforehand(dspark_plan, tmp_path):
    trainer = Trainer(dspark_plan)
    wanted = cache_bytes(trainer.sequences, trainer.target.numbers_per_token, torch.float32)
    trainer.use_cache(tmp_path)
    found = sum(path.stat().st_size for path in tmp_path.glob("features-*.parquet"))
    overhead = 1000 * len(trainer.sequences)  # a row group each
    assert wanted < found < wanted + overhead


def test_a_disk_too_small_for_the_cache_is_refused_first(dspark_plan, tmp_path, monkeypatch):
    usage = feature_cache.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda directory: usage)
    with pytest.raises(ValueError, match=r"the disk has 0\.0 GB free; train without a cache"):
        Trainer(dspark_plan).use_cache(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_cache_of_other_layers_is_refused(dspark_plan, tmp_path):
    Trainer(dspark_plan).use_cache(tmp_path)
    other = replace(dspark_plan, target_layer_ids=(-1, 3))
    with pytest.raises(ValueError, match=r"made for target_layer_ids .*\(-1, 3\).* remove the"):
        Trainer(other).use_cache(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_a_damaged_cache_is_refused(damage, dspark_plan, tmp_path, small_parts):
    Trainer(dspark_plan).use_cache(tmp_path)
    for path in tmp_path.glob("features-*.parquet"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content[:-9] if damage == "cut" else content)
    with pytest.raises(ValueError, match="cannot be read"):
        train(dspark_plan, tmp_path / "run", print, RunOptions(feature_cache=tmp_path))
