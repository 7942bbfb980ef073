"""`dspark serve` refuses what cannot work: one message, a non-zero exit, nothing left running."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.integration.served import demo_config, free_port, serve_command

pytestmark = pytest.mark.light


def refused(config: Path, port: int | None = None) -> str:
    """What it says when it refuses; its process has ended and so have its children."""
    done = subprocess.run(
        serve_command(config, port or free_port()), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stdout + done.stderr
    assert "starting" not in done.stdout  # before Ray, so there is nothing to leave behind
    said = [line for line in done.stderr.splitlines() if line.startswith("dspark serve:")]
    assert len(said) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr[done.stderr.index("dspark serve:") :]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return demo_config(tmp_path / "serve.yaml", models={"demo": "split"})


def change(config: Path, **model: object) -> Path:
    document = yaml.safe_load(config.read_text())
    document["applications"][0]["args"]["models"][0] |= model
    config.write_text(yaml.safe_dump(document))
    return config


def test_no_such_file(tmp_path):
    assert "No such file" in refused(tmp_path / "missing.yaml")


def test_not_a_serve_file(tmp_path):
    config = tmp_path / "serve.yaml"
    config.write_text("- just\n- a list\n")
    assert "is not a Serve file" in refused(config)


def test_a_wrong_setting_is_named(config):
    assert "models.0.placement" in refused(change(config, placement="elsewhere"))


def test_a_missing_target_is_named(config):
    said = refused(change(config, target={"source": "models/nothing-here"}))
    assert "model demo: target.source" in said
    assert "models/nothing-here" in said


def test_a_missing_drafter_is_named(config):
    said = refused(change(config, drafter={"source": "./no-drafter"}))
    assert "model demo: drafter.source" in said


@pytest.mark.parametrize(
    ("field", "value"), [("hidden_size", 512), ("num_target_layers", 36), ("vocab_size", 151936)]
)
def test_a_drafter_that_does_not_fit_is_named_with_the_differing_field(
    config, tmp_path, field, value
):
    drafter = tmp_path / "drafter"
    drafter.mkdir()
    (drafter / "config.json").write_text(json.dumps(drafter_config() | {field: value}))
    said = refused(change(config, drafter={"source": str(drafter)}))
    assert field in said
    assert str(value) in said


def drafter_config() -> dict[str, object]:
    """A drafter in DeepSpec's layout that would fit the demo target."""
    target = json.loads(Path("models/demo-target/config.json").read_text())
    return target | {
        "architectures": ["Qwen3DSparkModel"],
        "num_hidden_layers": 2,
        "layer_types": ["full_attention"] * 2,
        "block_size": 7,
        "mask_token_id": 3,
        "target_layer_ids": [1, 3, 5],
        "num_target_layers": 8,
        "markov_rank": 64,
        "markov_head_type": "vanilla",
        "enable_confidence_head": True,
        "confidence_head_with_markov": True,
    }


def test_replicas_that_no_cpu_is_left_for_are_refused_with_the_sum(config):
    target = {"source": "models/demo-target", "num_cpus": 1000}
    said = refused(change(config, target=target))
    assert "the replicas take 2000.35 logical CPUs" in said
    assert "Target:demo 2000" in said


def test_a_port_in_use_is_named(config):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(config, port)
    assert f"127.0.0.1:{port}" in said
    assert "--port" in said


@pytest.mark.long
def test_a_replica_that_cannot_start_ends_it_and_leaves_nothing(config, tmp_path):
    broken = tmp_path / "target"
    shutil.copytree("models/demo-target", broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    change(config, placement="off", drafter=None, target={"source": str(broken)})
    process = subprocess.run(
        serve_command(config, free_port()), capture_output=True, text=True, timeout=400
    )
    assert process.returncode == 1, process.stdout + process.stderr
    assert "did not start" in process.stdout
    left = subprocess.run(["pgrep", "-f", str(broken)], capture_output=True, text=True)
    assert left.stdout == ""
