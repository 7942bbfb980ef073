"""A training run as a user starts it, killed on the way and begun again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from drafters.training.checkpoints import FILE_NAME
from tests.unit.drafters.training_fixtures import write_answers, write_target

CHECKPOINT_EVERY = 4
SETTINGS = {
    "steps": 40,
    "num_layers": 1,
    "block_size": 3,
    "markov_rank": 4,
    "target_layers": [1, 3],
    "batch_size": 2,
    "num_anchors": 2,
    "warmup": 2,
    "held_out": 8,
    "precision": "float32",
}


def command(folder: Path, output: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "cluster.cli", "train", "--config", str(folder / "train.yaml")),
        *("--data", str(folder / "answers.jsonl"), "--output", str(output), "--threads", "1"),
        *("--checkpoint-every", str(CHECKPOINT_EVERY)),
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = write_target(tmp_path / "target")
    write_answers(tmp_path / "answers.jsonl")
    (tmp_path / "train.yaml").write_text(yaml.safe_dump({"target": str(target), **SETTINGS}))
    return tmp_path


def test_a_killed_run_loses_one_interval_and_comes_to_the_same_drafter(folder):
    whole, killed = folder / "whole", folder / "killed"
    subprocess.run(command(folder, whole), check=True, timeout=120)
    killed.mkdir()
    (killed / "training.json").write_text("{}")  # of a drafter that was there before
    run = subprocess.Popen(command(folder, killed), stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    reached = 0
    for line in run.stdout:
        if line.startswith("step "):
            reached = int(line.split()[1].split("/")[0])
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert (killed / FILE_NAME).exists()
    assert not (killed / "training.json").exists()
    assert not (killed / "model.safetensors").exists()
    again = subprocess.run(
        command(folder, killed), check=True, timeout=120, stdout=subprocess.PIPE, text=True
    )
    resumed = int(again.stdout.split("resuming at step ")[1].split()[0])
    assert resumed >= reached - CHECKPOINT_EVERY
    assert (killed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    records = [json.loads((one / "training.json").read_text()) for one in (whole, killed)]
    assert records[0]["history"] == records[1]["history"]
    assert records[0]["held_out"] == records[1]["held_out"]
