"""The target's states kept on disk, so that many epochs read a text once.

They are thousands of times the text (two bytes for each of F + d numbers a token), so the
size is computed first, and a disk that is too small is refused. Parquet parts with one row
group for each text; a part is written whole or not at all, so filling goes on where it was
interrupted.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from drafters.training.data import Batch, TextSequence
from drafters.training.target import FrozenTarget, TargetStates

ROWS_PER_PART = 128
_SCHEMA = pa.schema([("row", pa.int32()), ("features", pa.binary()), ("last_hidden", pa.binary())])
_OPEN_PARTS = 64
_DISK_RESERVE = 0.05  # of the cache's size, for Parquet's own bytes


class FeatureCache:
    """Parts in a directory, all made under one `key`.

    The key says which target, layers and texts the states are of, and as "dtype" what
    numbers they are.
    """

    def __init__(self, directory: Path, key: Mapping[str, str]) -> None:
        self.directory = directory
        self._key = dict(key)

    def fill(
        self, sequences: Sequence[TextSequence], target: FrozenTarget, rank: int, count: int
    ) -> None:
        """Write worker `rank`'s of `count` parts, where they are not there. Which are a worker's
        own follows from their numbers alone, whatever others have written meanwhile.

        Raises ValueError when the disk has no room for what is missing, or for a cache of
        another key.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        parts = range(0, len(sequences), ROWS_PER_PART)
        missing = [first for first in parts if not self._is_there(first)]
        rows = [row for first in missing for row in sequences[first : first + ROWS_PER_PART]]
        check_room(self.directory, cache_bytes(rows, target.numbers_per_token, target.dtype))
        for first in missing:
            if first // ROWS_PER_PART % count == rank:
                self._write(first, sequences[first : first + ROWS_PER_PART], target)

    def opened(self, sequences: Sequence[TextSequence], device: torch.device) -> CachedStates:
        """For reading. Raises ValueError for a part that is missing, damaged or another's."""
        paths = [self._path(first) for first in range(0, len(sequences), ROWS_PER_PART)]
        for path in paths:
            _open(path, self._key).close()
        return CachedStates(paths, self._key, device)

    def _path(self, first: int) -> Path:
        return self.directory / f"features-{first // ROWS_PER_PART:06}.parquet"

    def _is_there(self, first: int) -> bool:
        path = self._path(first)
        if not path.exists():
            return False
        _open(path, self._key).close()
        return True

    def _write(self, first: int, rows: Sequence[TextSequence], target: FrozenTarget) -> None:
        path = self._path(first)
        unfinished = path.with_suffix(".unfinished")
        schema = _SCHEMA.with_metadata(self._key)
        with pq.ParquetWriter(
            unfinished,
            schema,
            compression="none",
            use_dictionary=False,
            write_statistics=False,  # of a row, they would hold all of it twice again
            write_page_checksum=True,
        ) as writer:
            for row in rows:
                states = target.read(torch.tensor([list(row.tokens)], device=target.device))
                columns = {
                    "row": [row.row],
                    "features": [_bytes(states.features[0])],
                    "last_hidden": [_bytes(states.last_hidden[0])],
                }
                writer.write_table(pa.table(columns, schema=schema))
        unfinished.replace(path)


class CachedStates:
    """Reads the states of a batch's texts. Of its parts a few are open at a time."""

    def __init__(self, paths: Sequence[Path], key: Mapping[str, str], device: torch.device) -> None:
        self._part = lru_cache(_OPEN_PARTS)(lambda i: _open(paths[i], key))
        self._device = device

    def read(self, batch: Batch) -> TargetStates:
        """As `FrozenTarget.read`, zero where a text is padded."""
        rows = [self._row(int(row)) for row in batch.rows]
        length = batch.tokens.shape[1]
        lengths = batch.lengths.tolist()
        columns = (
            torch.stack([_padded(row[i], n, length) for row, n in zip(rows, lengths, strict=True)])
            for i in range(2)
        )
        return TargetStates(*(column.to(self._device) for column in columns))

    def _row(self, row: int) -> tuple[Tensor, Tensor]:
        part = self._part(row // ROWS_PER_PART)
        try:
            table = part.read_row_group(row % ROWS_PER_PART)
        except (pa.ArrowException, OSError) as error:
            raise ValueError(_damaged(f"row {row} of the feature cache", error)) from None
        dtype = part.schema_arrow.metadata[b"dtype"].decode().removeprefix("torch.")
        features, hidden = (
            torch.frombuffer(bytearray(table.column(name)[0].as_py()), dtype=getattr(torch, dtype))
            for name in ("features", "last_hidden")
        )
        return features, hidden


def cache_bytes(
    sequences: Sequence[TextSequence], numbers_per_token: int, dtype: torch.dtype
) -> int:
    """Bytes that the states of `sequences` take."""
    return sum(len(row.tokens) for row in sequences) * numbers_per_token * dtype.itemsize


def check_room(directory: Path, num_bytes: int) -> None:
    """Raise ValueError when `directory`'s disk has no room for so many bytes of states."""
    needed = int(num_bytes * (1 + _DISK_RESERVE))
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise ValueError(
            f"{directory}: the feature cache needs {needed / 1e9:.1f} GB, the disk has "
            f"{free / 1e9:.1f} GB free; train without a cache, with fewer target layers or "
            "less text, or name another disk"
        )


def _open(path: Path, key: Mapping[str, str]) -> pq.ParquetFile:
    try:
        part = pq.ParquetFile(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(_damaged(str(path), error)) from None
    found = {k.decode(): v.decode() for k, v in (part.schema_arrow.metadata or {}).items()}
    for name, value in key.items():
        if found.get(name) != value:
            raise ValueError(
                f"{path}: made for {name} {found.get(name)!r}, now it is {value!r}; remove the "
                "cache or name another directory"
            )
    return part


def _damaged(what: str, error: Exception) -> str:
    reason = str(error).splitlines()[0]
    return f"{what}: cannot be read ({reason}); remove its part, and it is made again"


def _bytes(states: Tensor) -> bytes:
    content: bytes = states.cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return content


def _padded(flat: Tensor, num_tokens: int, length: int) -> Tensor:
    states = flat.view(num_tokens, -1)[:length]
    return torch.nn.functional.pad(states, (0, 0, 0, length - len(states)))
