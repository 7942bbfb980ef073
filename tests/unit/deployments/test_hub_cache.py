"""Snapshots of one cache, copied to another in pieces: whole, or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download

from deployments.errors import ConfigError
from deployments.hub_cache import (
    Piece,
    Snapshot,
    append_piece,
    arrived_bytes,
    check_weights,
    find_snapshot,
    pieces,
    read_piece,
    take_in,
)

COMMIT = "a" * 40
WEIGHTS = bytes(range(250))


def fetched(cache: Path, *, ref: str | None = None) -> Snapshot:
    """As the hub's library leaves one: names of blobs, and what it knows of the commit."""
    folder = cache / "models--owner--target"
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs/1").write_bytes(WEIGHTS)
    (folder / "snapshots" / COMMIT / "sub").mkdir(parents=True)
    (folder / "snapshots" / COMMIT / "model.safetensors").symlink_to(folder / "blobs/1")
    (folder / "snapshots" / COMMIT / "sub/empty.txt").touch()
    (folder / "trees").mkdir()
    (folder / "trees" / f"{COMMIT}.json").write_text("{}")
    if ref is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / ref).write_text(COMMIT)
    found = find_snapshot(cache, "owner/target", None if ref else COMMIT)
    assert found is not None
    return found


def copy(source: Path, to: Path, snapshot: Snapshot, piece_bytes: int, stop_after: int = 99) -> int:
    """Returns how many pieces it took."""
    todo = list(pieces(snapshot.sizes, arrived_bytes(to, snapshot), piece_bytes))[:stop_after]
    for piece in todo:
        append_piece(to, snapshot, piece, read_piece(source, snapshot, piece))
    return len(todo)


@pytest.mark.parametrize("ref", [None, "main"])
def test_a_copy_is_what_the_hubs_library_finds_without_a_network(tmp_path, ref):
    source, to = tmp_path / "a", tmp_path / "b"
    snapshot = fetched(source, ref=ref)
    copy(source, to, snapshot, piece_bytes=100)
    take_in(to, snapshot)
    revision = None if ref else COMMIT
    found = snapshot_download(
        "owner/target", revision=revision, cache_dir=to, local_files_only=True
    )
    assert (Path(found) / "model.safetensors").read_bytes() == WEIGHTS
    assert (Path(found) / "sub/empty.txt").read_bytes() == b""
    assert find_snapshot(to, "owner/target", revision) == snapshot
    assert not list(to.rglob(".arriving*"))


def test_an_interrupted_copy_goes_on_where_it_was(tmp_path):
    source, to = tmp_path / "a", tmp_path / "b"
    snapshot = fetched(source)
    assert copy(source, to, snapshot, piece_bytes=100, stop_after=2) == 2
    with pytest.raises(ConfigError, match=r"did not arrive whole: .*model\.safetensors"):
        take_in(to, snapshot)
    assert find_snapshot(to, "owner/target", COMMIT) is None
    assert copy(source, to, snapshot, piece_bytes=100) == 3  # of weights, nothing, the tree
    take_in(to, snapshot)
    assert find_snapshot(to, "owner/target", COMMIT) == snapshot


def test_a_piece_that_comes_twice_is_written_once(tmp_path):
    snapshot = Snapshot("models--o--t", COMMIT, {"f": 4})
    for piece, data in ((Piece("f", 0, 2), b"ab"), (Piece("f", 2, 2), b"cd")) * 2:
        append_piece(tmp_path, snapshot, piece, data)
    take_in(tmp_path, snapshot)
    assert (tmp_path / "models--o--t/f").read_bytes() == b"abcd"


def test_a_piece_that_is_not_whole_is_refused(tmp_path):
    snapshot = Snapshot("models--o--t", COMMIT, {"f": 4})
    with pytest.raises(ConfigError, match="f changed while it was copied"):
        append_piece(tmp_path, snapshot, Piece("f", 0, 4), b"abc")


def test_a_snapshot_that_is_there_in_part_is_completed(tmp_path):
    source, to = tmp_path / "a", tmp_path / "b"
    snapshot = fetched(source)
    half = to / "models--owner--target/snapshots" / COMMIT
    half.mkdir(parents=True)
    (half / "model.safetensors").symlink_to(tmp_path / "nowhere")
    copy(source, to, snapshot, piece_bytes=1000)
    take_in(to, snapshot)
    assert find_snapshot(to, "owner/target", COMMIT) == snapshot


@pytest.mark.parametrize(
    ("sizes", "arrived", "expected"),
    [
        ({"a": 5}, {}, [("a", 0, 2), ("a", 2, 2), ("a", 4, 1)]),
        ({"a": 4}, {"a": 2}, [("a", 2, 2)]),
        ({"a": 4}, {"a": 4}, []),
        ({"a": 4}, {"a": 5}, [("a", 0, 2), ("a", 2, 2)]),  # another file
        ({"a": 0}, {}, [("a", 0, 0)]),
        ({"b": 1, "a": 1}, {}, [("a", 0, 1), ("b", 0, 1)]),
    ],
)
def test_what_is_copied(sizes, arrived, expected):
    assert [(p.path, p.offset, p.num_bytes) for p in pieces(sizes, arrived, 2)] == expected


def test_weights_that_an_index_names_have_to_be_there(tmp_path):
    with pytest.raises(ConfigError, match=r"model m: target.source: .* lacks \*.safetensors"):
        check_weights(tmp_path, "model m: target.source")
    (tmp_path / "1.safetensors").touch()
    check_weights(tmp_path, "f")
    index = {"weight_map": {"x": "1.safetensors", "y": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"lacks 2\.safetensors"):
        check_weights(tmp_path, "f")
