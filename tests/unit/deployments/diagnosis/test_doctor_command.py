"""`dspark doctor` from the command line: exit status, text, JSON, files from other machines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cluster.cli import main
from cluster.doctor.evidence import Evidence, Memory, NodeEvidence

VERSIONS = {"ray": "2.60.0", "vllm": "0.29.0", "torch": "2.13.0"}
SOUND = NodeEvidence(
    "spark-a", memory=Memory(65536, 60000, 0), memlock_bytes=None, versions=VERSIONS
)


def written(path: Path, node: NodeEvidence) -> str:
    path.write_text(Evidence((node,)).to_json())
    return str(path)


def test_evidence_of_two_machines_is_examined_on_a_third(tmp_path, capsys):
    a = written(tmp_path / "a.json", SOUND)
    b = written(tmp_path / "b.json", replace(SOUND, node="spark-b", gpu_error="no driver"))
    assert main(["doctor", "--evidence", a]) == 0
    capsys.readouterr()
    assert main(["doctor", "--evidence", a, b, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["broken"] is True
    assert document["findings"][0]["node"] == "spark-b"
    assert document["findings"][0]["check"] == "driver"


def test_what_is_collected_here_is_examined_there(tmp_path, capsys):
    assert main(["doctor", "--collect"]) == 0
    (tmp_path / "here.json").write_text(capsys.readouterr().out)
    main(["doctor", "--evidence", str(tmp_path / "here.json")])
    assert capsys.readouterr().out.splitlines()[-1].endswith(" fine")


def test_a_drafter_that_does_not_fit_is_a_finding(tmp_path, capsys):
    a = written(tmp_path / "a.json", SOUND)
    demo = Path("deployments/configs/demo.yaml")
    assert main(["doctor", "--evidence", a, "--config", str(demo)]) == 0
    document = yaml.safe_load(demo.read_text())
    document["applications"][0]["args"]["models"][0]["drafter"]["source"] = "models/nothing-here"
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(document))
    capsys.readouterr()
    assert main(["doctor", "--evidence", a, "--config", str(tmp_path / "serve.yaml")]) == 1
    said = capsys.readouterr().out
    assert "Serve file: model demo: drafter.source: no directory 'models/nothing-here'" in said


@pytest.mark.parametrize("text", ["", "{}"])
def test_what_cannot_be_read_is_no_finding(tmp_path, capsys, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    assert main(["doctor", "--evidence", str(path)]) == 2
    assert "a.json is not" in capsys.readouterr().err
    assert main(["doctor", "--evidence", str(tmp_path / "none.json")]) == 2
