"""The whole file: what is in it, and that nothing planted anywhere is."""

from __future__ import annotations

import getpass
import platform
import tarfile
from pathlib import Path

import pytest
import yaml

from cluster.cli import main
from cluster.doctor.evidence import Evidence, NodeEvidence, ServiceEvidence
from deployments.diagnosis.bundle import bundle_files, known_secrets, newest_logs
from deployments.diagnosis.redaction import GONE, Redactor

PLANTED = (
    "env-hunter2-token",
    "ray-hunter2-token",
    "digesthunter2",
    "prompt-hunter2",
    "alicehunter",
)


@pytest.fixture
def logs(tmp_path) -> Path:
    logs = tmp_path / "session" / "logs"
    (logs / "serve").mkdir(parents=True)
    (logs / "serve" / "replica_app_Target.log").write_text(
        "INFO started\nINFO prompt: 'prompt-hunter2'\nERROR ray-hunter2-token refused\n"
    )
    (logs / "raylet.out").write_text("x" * 100_000 + " env-hunter2-token\nlast line\n")
    (logs / "runtime_env.zip").write_text("no log")
    return logs


@pytest.fixture
def config(tmp_path) -> Path:
    document = yaml.safe_load(Path("deployments/configs/demo.yaml").read_text())
    args = document["applications"][0]["args"]
    args["keys"] = [{"sha256": "ab" * 32, "tenant": "acme"}]
    args["models"][0]["target"]["env"] = {"HF_TOKEN": "env-hunter2-token"}
    args["models"][0]["drafter"]["source"] = "/home/alicehunter/drafter"
    path = tmp_path / "serve.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(autouse=True)
def secrets(monkeypatch, tmp_path):
    token = tmp_path / "auth_token"
    token.write_text("ray-hunter2-token\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    monkeypatch.setenv("MY_API_KEY", "env-hunter2-token")


def test_nothing_planted_is_in_the_file(tmp_path, logs, config, capsys):
    output = tmp_path / "bundle.tar.gz"
    command = ["bundle", "--config", str(config), "--logs", str(logs), "--output", str(output)]
    assert main(command) == 0
    assert "serve-file.yaml" in capsys.readouterr().out
    assert output.stat().st_mode & 0o077 == 0
    with tarfile.open(output) as archive:
        contents = {m.name: archive.extractfile(m).read().decode() for m in archive}  # type: ignore[union-attr]
    assert set(contents) >= {
        "dspark-bundle/findings.txt",
        "dspark-bundle/evidence.json",
        "dspark-bundle/serve-file.yaml",
        "dspark-bundle/logs/raylet.out",
        "dspark-bundle/logs/serve/replica_app_Target.log",
    }
    everything = "\n".join([*contents, *contents.values()])
    for planted in (*PLANTED, "ab" * 32):
        assert planted not in everything
    assert "last line" in contents["dspark-bundle/logs/raylet.out"]
    assert "x" * 1000 not in contents["dspark-bundle/logs/raylet.out"]
    served = yaml.safe_load(contents["dspark-bundle/serve-file.yaml"])
    args = served["applications"][0]["args"]
    assert args["keys"] == [{"sha256": GONE, "tenant": "acme"}]
    assert args["models"][0]["target"]["env"] == {"HF_TOKEN": GONE}
    assert args["models"][0]["target"]["source"] == "models/demo-target"


def test_the_fleet_is_in_it_without_its_secrets(logs):
    fleet = {"models": {"demo": {"drafters": [{"public_key": "digesthunter2", "pid": 7}]}}}
    service = ServiceEvidence("http://10.1.2.3:8000", ("demo",), fleet=fleet)
    evidence = Evidence((NodeEvidence("alicehunter-box"),), service)
    files = bundle_files(evidence, None, logs, Redactor(names={"alicehunter-box"}))
    everything = "\n".join(files.values())
    assert '"pid": 7' in files["evidence.json"]
    for planted in ("digesthunter2", "10.1.2.3", "alicehunter-box"):
        assert planted not in everything


def test_secrets_of_this_process_are_known():
    assert {"env-hunter2-token", "ray-hunter2-token"} <= known_secrets()


def test_only_logs_are_taken_the_newest_first(logs):
    names = [path.name for path in newest_logs(logs)]
    assert sorted(names) == ["raylet.out", "replica_app_Target.log"]
    assert newest_logs(logs / "none") == []


def test_names_of_this_machine_and_user_are_replaced(tmp_path, logs):
    output = tmp_path / "b.tar.gz"
    assert main(["bundle", "--logs", str(logs), "--output", str(output)]) == 0
    with tarfile.open(output) as archive:
        text = archive.extractfile("dspark-bundle/evidence.json").read().decode()  # type: ignore[union-attr]
    for name in {platform.node(), getpass.getuser()} - {"root", "ray", "localhost", ""}:
        assert len(name) < 3 or f'"{name}"' not in text
