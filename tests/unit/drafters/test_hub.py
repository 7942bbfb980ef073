"""Checkpoints by directory and by id, without a network."""

from __future__ import annotations

import huggingface_hub
import pytest

from cluster.cli import main
from drafters.errors import CheckpointError
from drafters.hub import checkpoint_directory
from profiles.fingerprint import checkpoint_fingerprint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


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


@pytest.mark.parametrize(
    ("source", "said"),
    [("owner/name", "newest"), ("owner/name@main", "main"), (f"owner/name@{COMMIT}", None)],
)
def test_what_names_no_commit_is_taken_with_a_warning_that_does(
    monkeypatch, tmp_path, caplog, source, said
):
    """The directory says it too, and with it whatever records a checkpoint's version."""
    snapshot = tmp_path / "models--owner--name" / "snapshots" / COMMIT
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: str(snapshot))
    assert checkpoint_fingerprint(checkpoint_directory(source)) == COMMIT
    wanted = f"taken is what {said} is now; to start with the same again: owner/name@{COMMIT}"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * (said is not None)
    assert all(wanted in message for message in caplog.messages)


def test_what_is_neither_is_refused_by_name(monkeypatch, tmp_path, capsys):
    with pytest.raises(CheckpointError, match="no such directory, and the hub does not give it"):
        checkpoint_directory("not an id")
    arguments = ["evaluate", "--target", "not an id", "--drafter", "ngram"]
    arguments += ["--benchmarks", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "not an id: no such directory" in capsys.readouterr().err
