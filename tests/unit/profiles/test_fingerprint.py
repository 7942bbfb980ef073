"""What checkpoints are called, and how their weights are."""

from __future__ import annotations

from profiles.fingerprint import checkpoint_fingerprint, checkpoint_name

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_checkpoint_in_the_hubs_cache_is_called_by_its_id_and_commit(tmp_path):
    snapshot = tmp_path / "models--owner--a-name" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert checkpoint_name(snapshot) == "owner/a-name"
    assert checkpoint_fingerprint(snapshot) == COMMIT  # whole: what a revision is pinned to


def test_another_is_called_as_its_directory_and_by_its_content(tmp_path):
    mine = tmp_path / "snapshots" / "mine"
    mine.mkdir(parents=True)
    (mine / "config.json").write_text("{}")
    assert checkpoint_name(mine) == "mine"
    before = checkpoint_fingerprint(mine)
    (mine / "model.safetensors").write_bytes(b"weights")
    assert checkpoint_fingerprint(mine) != before
