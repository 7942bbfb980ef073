"""A checkpoint in the hub's cache of one node: which files it has, read and written in pieces.

The layout is huggingface_hub's: `models--OWNER--NAME/snapshots/COMMIT/`, beside it `refs/NAME` with
a commit, and `trees/COMMIT.json`, by which the hub's library knows whether a snapshot is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.errors import ConfigError

PIECE_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One commit of a repository. `sizes` are those of its files in bytes, by path below the
    repository's folder."""

    repository: str
    commit: str
    sizes: dict[str, int]

    @property
    def num_bytes(self) -> int:
        return sum(self.sizes.values())


@dataclass(frozen=True, slots=True)
class Piece:
    """Of one file."""

    path: str
    offset: int
    num_bytes: int


def find_snapshot(cache: Path, source: str, revision: str | None) -> Snapshot | None:
    """What a cache (HF_HUB_CACHE) has of it, whole or not."""
    repository = f"models--{source.replace('/', '--')}"
    folder = cache / repository
    ref = folder / "refs" / (revision or "main")
    commit = ref.read_text().strip() if ref.is_file() else revision
    if commit is None or not (folder / "snapshots" / commit).is_dir():
        return None
    files = [path for path in (folder / "snapshots" / commit).rglob("*") if path.is_file()]
    files += [path for path in (ref, folder / "trees" / f"{commit}.json") if path.is_file()]
    sizes = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    return Snapshot(repository, commit, sizes)


def check_weights(directory: Path, field: str) -> None:
    """Raises ConfigError where a checkpoint's directory lacks weights that it should have.

    A snapshot with config.json alone is what is left where somebody looked at a checkpoint; without
    a network the hub's library takes it for the whole.
    """
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        named = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(name for name in named if not (directory / name).is_file())
    else:
        missing = [] if any(directory.glob("*.safetensors")) else ["*.safetensors"]
    if missing:
        raise ConfigError(f"{field}: {directory} lacks {', '.join(missing)}: is the hub reachable?")


def pieces(
    sizes: Mapping[str, int], arrived: Mapping[str, int], piece_bytes: int = PIECE_BYTES
) -> Iterator[Piece]:
    """What is to be read of one node and appended on another, in this order. `arrived` are bytes of
    an attempt that was interrupted."""
    for path, size in sorted(sizes.items()):
        offset = arrived.get(path, -1)
        if not 0 <= offset <= size:
            offset = 0
        elif offset == size:
            continue
        while True:  # once for an empty file too: it has to be there
            num_bytes = min(piece_bytes, size - offset)
            yield Piece(path, offset, num_bytes)
            offset += num_bytes
            if offset >= size:
                break


def read_piece(cache: Path, snapshot: Snapshot, piece: Piece) -> bytes:
    with (cache / snapshot.repository / piece.path).open("rb") as file:
        file.seek(piece.offset)
        return file.read(piece.num_bytes)


def arrived_bytes(cache: Path, snapshot: Snapshot) -> dict[str, int]:
    """By file, of what `append_piece` has written so far."""
    folder = _arriving(cache, snapshot)
    files = (folder / path for path in snapshot.sizes)
    return {str(f.relative_to(folder)): f.stat().st_size for f in files if f.is_file()}


def append_piece(cache: Path, snapshot: Snapshot, piece: Piece, data: bytes) -> None:
    """Written a second time it is the same. Raises ConfigError for a piece that is not whole."""
    if len(data) != piece.num_bytes:
        raise ConfigError(f"{snapshot.repository}: {piece.path} changed while it was copied")
    file = _arriving(cache, snapshot) / piece.path
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("r+b" if file.exists() else "wb") as out:
        out.truncate(piece.offset)
        out.seek(piece.offset)
        out.write(data)


def take_in(cache: Path, snapshot: Snapshot) -> None:
    """Move what has arrived to where the hub's library looks. Raises ConfigError for less than
    everything."""
    arrived = arrived_bytes(cache, snapshot)
    if arrived != snapshot.sizes:
        lacking = sorted(path for path, size in snapshot.sizes.items() if arrived.get(path) != size)
        raise ConfigError(f"{snapshot.repository}: did not arrive whole: {', '.join(lacking)}")
    folder = _arriving(cache, snapshot)
    for path in snapshot.sizes:
        place = cache / snapshot.repository / path
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / path).replace(place)
    shutil.rmtree(folder)


def _arriving(cache: Path, snapshot: Snapshot) -> Path:
    return cache / snapshot.repository / f".arriving-{snapshot.commit}"
