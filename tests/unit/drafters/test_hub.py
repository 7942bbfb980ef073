"""Checkpoints by directory and by id, without a network."""

from __future__ import annotations

import huggingface_hub
import pytest

from cluster.cli import main
from drafters.errors import CheckpointError
from drafters.hub import checkpoint_directory


def test_a_directory_is_taken_as_it_is(tmp_path):
    assert checkpoint_directory(tmp_path, "a-revision") == tmp_path


@pytest.mark.parametrize(
    ("source", "revision", "asked"),
    [
        ("owner/name", None, ("owner/name", None)),
        ("owner/name", "abc", ("owner/name", "abc")),
        ("owner/name@def", "abc", ("owner/name", "def")),
    ],
)
def test_an_id_is_fetched_at_its_revision(monkeypatch, tmp_path, source, revision, asked):
    calls = []

    def fetch(name, *, revision, ignore_patterns):
        calls.append((name, revision, ignore_patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert checkpoint_directory(source, revision) == tmp_path
    assert checkpoint_directory(source, revision, weights=False) == tmp_path
    assert [call[:2] for call in calls] == [asked, asked]
    for _, _, ignored in calls:
        assert {"*.bin", "*.pt", "*.pth"} <= set(ignored)  # pickles run what they hold
    assert ["*.safetensors" in ignored for _, _, ignored in calls] == [False, True]


def test_what_is_neither_is_refused_by_name(monkeypatch, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="no such directory, and the hub does not give it"):
        checkpoint_directory("not an id")
    arguments = ["evaluate", "--target", "not an id", "--drafter", "ngram"]
    arguments += ["--benchmarks", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "not an id: no such directory" in capsys.readouterr().err
