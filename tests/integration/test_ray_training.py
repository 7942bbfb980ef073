"""Two workers of Ray Train against one process, on the same plan."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
import torch

from drafters.errors import CheckpointError
from drafters.training.checkpoints import FILE_NAME, read_checkpoint
from drafters.training.loop import RunOptions, train
from drafters.training.on_ray import train_on_ray
from drafters.training_record import RECORD
from tests.unit.drafters.training_fixtures import small_plan, write_answers, write_target


@pytest.mark.long
def test_workers_on_ray_train_the_drafter_of_one_process(tmp_path):
    target = write_target(tmp_path / "target")
    answers = write_answers(tmp_path / "answers.jsonl")
    plan = small_plan("dspark", target, answers, evaluate_every=3)
    options = RunOptions(device="cpu", feature_cache=tmp_path / "cache")
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        assert train_on_ray(plan, tmp_path / "two", print, options, num_workers=2, use_gpu=False)
    finally:
        ray.shutdown()
    assert train(plan, tmp_path / "one", print, RunOptions(device="cpu"))
    one, two = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    for name, weight in one["model"].items():
        torch.testing.assert_close(two["model"][name], weight, atol=1e-5, rtol=0, msg=name)
    assert (tmp_path / "two" / "model.safetensors").exists()


def kill_a_worker(output: Path, killed: list[int]) -> None:
    """Once there is something to go on from."""
    while not (output / FILE_NAME).exists():
        time.sleep(0.05)
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "TrainWorker" in " ".join(child.cmdline()):
                child.kill()
                killed.append(child.pid)
                return


@pytest.mark.long
def test_a_worker_that_is_killed_costs_no_more_than_an_interval(tmp_path):
    target = write_target(tmp_path / "target")
    answers = write_answers(tmp_path / "answers.jsonl")
    plan = small_plan("dspark", target, answers, steps=300)
    options = RunOptions(device="cpu", checkpoint_every=20)
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path / "two", killed), daemon=True)
    killer.start()
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        assert train_on_ray(plan, tmp_path / "two", print, options, num_workers=2, use_gpu=False)
    finally:
        ray.shutdown()
    assert len(killed) == 1
    assert train(plan, tmp_path / "one", print, options)
    one, two = (read_checkpoint(tmp_path / name) for name in ("one", "two"))
    assert one is not None
    assert two is not None
    assert one["step"] == two["step"] == 300
    # Two workers add up in another order, and 300 steps make more of that than of 6.
    records = [json.loads((tmp_path / name / RECORD).read_text()) for name in ("one", "two")]
    for domain, means in records[0]["held_out"].items():
        assert records[1]["held_out"][domain] == pytest.approx(means, rel=0.02), domain


@pytest.mark.long
def test_what_workers_cannot_use_is_said_as_by_one_process(tmp_path):
    target = write_target(tmp_path / "target")
    answers = write_answers(tmp_path / "answers.jsonl")
    plan = small_plan("dspark", target, answers, start_from=str(tmp_path / "nowhere"))
    try:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        with pytest.raises(CheckpointError, match="nowhere"):
            train_on_ray(plan, tmp_path / "two", print, RunOptions(), num_workers=2, use_gpu=False)
    finally:
        ray.shutdown()
