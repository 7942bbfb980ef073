"""Checkpoints of a training run: written whole or not at all, and refused when damaged."""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from drafters.errors import CheckpointError

FILE_NAME = "training.pt"
VERSION = 3
"""Of what a checkpoint holds and means: another one where either changes."""

_DIGEST_BYTES = 32


def write_checkpoint(directory: Path, state: Mapping[str, Any]) -> None:
    """Replace `directory`'s checkpoint; an interruption leaves the former one whole.

    The file is a SHA-256 digest and, behind it, what `torch.save` writes, tensor by tensor:
    no copy of the whole is made.
    """
    unfinished = directory / (FILE_NAME + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(bytes(_DIGEST_BYTES))
        hashing = _HashingWriter(file)
        torch.save({"version": VERSION, **state}, cast(IO[bytes], hashing))  # it only writes
        file.seek(0)
        file.write(hashing.digest())
        file.flush()
        os.fsync(file.fileno())  # else a machine that goes down may keep neither
    unfinished.replace(directory / FILE_NAME)


class _HashingWriter(io.RawIOBase):
    """Passes on what is written, and knows its SHA-256."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        self._digest.update(content)
        return self._file.write(content)

    def digest(self) -> bytes:
        """Of all written so far."""
        return self._digest.digest()


def read_checkpoint(directory: Path) -> dict[str, Any] | None:
    """`directory`'s checkpoint, on the CPU; None when there is none.

    Raises CheckpointError for a truncated or altered file, or one of another version.
    """
    path = directory / FILE_NAME
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        if path.stat().st_size <= _DIGEST_BYTES:
            raise _damaged(path)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            digest, content = mapped[:_DIGEST_BYTES], memoryview(mapped)[_DIGEST_BYTES:]
            with content:
                if hashlib.sha256(content).digest() != digest:
                    raise _damaged(path)
                buffer = io.BytesIO(content)
    state: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    if state.get("version") != VERSION:
        raise CheckpointError(
            f"{path}: of a run begun with another version of this trainer (checkpoints of "
            f"version {state.get('version', 1)}, here {VERSION}); end it with that one, or use "
            "another output directory"
        )
    return state


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path}: truncated or altered since it was written; remove it to train from the start, "
        "or bring back a copy"
    )
