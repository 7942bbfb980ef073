"""Answers of a target as token ids: what `dspark generate` writes and `dspark train` reads.

A directory of Parquet parts, each written whole or not at all. Their order is that in which
the answers came; a row's `id` says which prompt it belongs to.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("domain", pa.string()),
        ("source", pa.string()),
        ("prompt", pa.list_(pa.int32())),
        ("output", pa.list_(pa.int32())),
    ]
)

TARGET = "target"  # in a part's metadata: the fingerprint of the weights that answered


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a prompt and of what the target said to it."""

    id: str
    domain: str
    source: str
    prompt: tuple[int, ...]
    output: tuple[int, ...]


class AnswerWriter:
    """Appends parts to a directory. What is added is on disk after `flush`.

    A part is written of `rows_per_part` answers, or once the first of them is `max_age_s`
    old: no more than that is lost when the process dies. `made_by` says how all answers of the
    directory came about; raises ValueError naming what differs from the parts that are there.
    """

    def __init__(
        self,
        directory: Path,
        rows_per_part: int = 256,
        max_age_s: float = 60,
        made_by: Mapping[str, str] | None = None,
    ) -> None:
        made_by = dict(made_by or {})
        _check_made_alike(directory, made_by)
        self._schema = SCHEMA.with_metadata(made_by) if made_by else SCHEMA
        self._directory = directory
        self._rows_per_part, self._max_age_s = rows_per_part, max_age_s
        self._pending: list[Answer] = []
        self._oldest_s = 0.0
        parts = sorted(directory.glob("part-*.parquet"))
        self._next = 1 + max((int(part.stem.split("-")[1]) for part in parts), default=-1)

    def add(self, answer: Answer) -> None:
        """Keep an answer, and write a part when there are enough."""
        now_s = time.monotonic()
        if not self._pending:
            self._oldest_s = now_s
        self._pending.append(answer)
        is_full = len(self._pending) >= self._rows_per_part
        if is_full or now_s - self._oldest_s >= self._max_age_s:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        if not self._pending:
            return
        rows = [{name: getattr(answer, name) for name in SCHEMA.names} for answer in self._pending]
        path = self._directory / f"part-{self._next:06}.parquet"
        unfinished = path.with_suffix(".unfinished")
        self._directory.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.Table.from_pylist(rows, schema=self._schema), unfinished, write_page_checksum=True
        )
        unfinished.replace(path)
        self._next += 1
        self._pending = []

    def drop_pending(self) -> int:
        """Give up what is pending, as it cannot be written; how many answers that were."""
        dropped, self._pending = len(self._pending), []
        return dropped


def answer_parts(directory: Path) -> Sequence[Path]:
    """The parts below a directory, in order."""
    return sorted(directory.rglob("part-*.parquet"))


def copy_answers(directory: Path, copy: Path) -> None:
    """Copy the parts below a directory, in order; a `copy` that is there already stays as it is.

    Parts that vanish meanwhile, as those of served traffic do, are left out. Raises ValueError
    where there is none.
    """
    if copy.exists():
        return
    unfinished = copy.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    num_copied = 0
    for part in answer_parts(directory):
        try:
            shutil.copyfile(part, unfinished / f"part-{num_copied:06}.parquet")
        except FileNotFoundError:
            continue
        num_copied += 1
    if not num_copied:
        unfinished.rmdir()
        raise ValueError(f"{directory}: no part-*.parquet in it to copy")
    unfinished.replace(copy)


def made_by(part: Path) -> dict[str, str]:
    """What a part's writer said of its answers. Raises ValueError for one that is damaged."""
    try:
        metadata = pq.read_schema(part).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from None
    return {key.decode(): value.decode() for key, value in metadata.items()}


def _check_made_alike(directory: Path, here: Mapping[str, str]) -> None:
    for part in answer_parts(directory):
        there = made_by(part)
        differing = [
            f"{key} {there[key]!r} there, {value!r} now"
            for key, value in here.items()
            if there.get(key, value) != value
        ]
        if differing:
            raise ValueError(
                f"{part}: made with {'; '.join(differing)}. Go on with the same settings, or use "
                "another output directory"
            )


def answered(directory: Path) -> set[str]:
    """Ids of all answers below a directory. Raises ValueError for a part that cannot be read."""
    parts = answer_parts(directory)
    return {id_ for part in parts for id_ in _read_part(part, ["id"]).column("id").to_pylist()}


def read_answers(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows with the place they are at, from a directory of parts or a file of JSON lines.

    Raises ValueError naming the file, and the line, that cannot be read.
    """
    if path.is_dir():
        parts = answer_parts(path)
        if not parts:
            raise ValueError(f"{path}: no part-*.parquet in it; dspark generate writes them")
        for part in parts:
            for number, row in enumerate(_read_part(part, SCHEMA.names).to_pylist()):
                yield f"{part}, row {number}", row
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{place}: {error}; needed is one JSON object a line") from None
            if not isinstance(row, dict):
                raise ValueError(f"{place}: a {type(row).__name__}; needed is a JSON object")
            yield place, row


def _read_part(part: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(part, columns=columns, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(part, error) from None


def _damaged(part: Path, error: Exception) -> ValueError:
    reason = str(error).splitlines()[0]
    return ValueError(
        f"{part}: cannot be read ({reason}); it is damaged: remove it (dspark generate makes its "
        "answers again, served traffic is lost)"
    )
