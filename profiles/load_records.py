"""What a load test recorded: a row per request and a row per run, as Parquet.

Two files in one directory, `requests.parquet` and `runs.parquet`. While runs are being made
their requests stand in files of their own, `requests-1.parquet` and so on, which are merged in
the end. A run counts once its row is written, after its requests: requests without one are
dropped on reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from profiles.parquet import ProfileFile, read_profile, write_profile

OK, REFUSED, RESET, STALLED, TRUNCATED, MALFORMED = STATUSES = (
    "ok",
    "refused",
    "reset",
    "stalled",
    "truncated",
    "malformed",
)
"""How a request ended: answered in full; an HTTP error; the connection failed or was reset;
no byte for too long; the stream ended before its end was marked, or without a finish reason; bytes
that are no answer."""

_FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of the run `run_id`, the `number`-th of its load, and every chunk of its answer.

    `due_s` is when it was to be sent, `sent_s` when it was, both from the run's start. Chunk i
    arrived `sum(gap_us[: i + 1])` microseconds after `sent_s` with `chunk_tokens[i]` tokens.
    `counted_by` says who counted those: `token_ids` or running `usage` in each chunk, both
    exact; `spread`, the total of the usage over the chunks; `chunks`, one each, a guess.
    """

    run_id: str
    number: int
    turn: int
    domain: str
    prompt_id: str
    due_s: float
    sent_s: float
    status: str
    http_status: int
    error: str
    prompt_tokens: int
    output_tokens: int
    counted_by: str
    finish_reason: str
    gap_us: tuple[int, ...]
    chunk_tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunRow:
    """One arm under one load, once: repetition `round` of visit `visit` to its server.

    `load` is `closed`, `poisson`, ... and `load_value` its clients or requests per second;
    `trace` is the digest of a recorded trace's file, empty without one.
    Until `window_s` the load was full; `wall_s` is when the last answer ended. `served_by` is
    the command or address behind the arm, `sitting` one time of measuring it, in which its arms
    took turns. Counts are the server's own, -1 where it has none:
    `committed_tokens`, `draft_tokens` verified and `accepted_tokens` of them in
    `verified_drafts` target steps per request. By position, empty where nobody counts them:
    draft tokens `admitted` to verification, those `accepted`, and how many were `expected` to be
    by their calibrated confidences. `cpu_s` is the processor time of the server's processes,
    `client_cpu_s` ours. `num_gpus` is what the arm's replicas and drafters held, -1 where it is
    not known.
    """

    run_id: str
    arm: str
    model: str
    policy: str
    served_by: str
    num_replicas: int
    load: str
    load_value: float
    trace: str
    context_tokens: int
    round: int
    visit: int
    sitting: str
    started_at: str
    window_s: float
    wall_s: float
    cpu_s: float
    client_cpu_s: float
    num_gpus: float
    committed_tokens: int
    verified_drafts: int
    draft_tokens: int
    accepted_tokens: int
    admitted_by_position: tuple[int, ...]
    accepted_by_position: tuple[int, ...]
    expected_by_position: tuple[float, ...]


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "tuple[int, ...]": pa.list_(pa.int32()),
    "tuple[float, ...]": pa.list_(pa.float64()),
}


def _schema(row: type) -> pa.Schema:
    return pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(row)])


REQUEST_SCHEMA = _schema(RequestRow)
RUN_SCHEMA = _schema(RunRow)


class LoadRecords(NamedTuple):
    """The runs of one experiment, their requests, and where both come from."""

    runs: tuple[RunRow, ...]
    requests: tuple[RequestRow, ...]
    metadata: dict[str, str]

    def requests_of(self, run: RunRow) -> tuple[RequestRow, ...]:
        """The requests of one run, in the order of the load."""
        return tuple(row for row in self.requests if row.run_id == run.run_id)


def add_load_run(
    directory: Path,
    runs: Sequence[RunRow],
    requests: Sequence[RequestRow],
    metadata: Mapping[str, str],
) -> None:
    """Write down the last of `runs` with its `requests`; those of the others are there already."""
    _write(directory / f"requests-{len(runs)}.parquet", "requests", requests, metadata)
    _write(directory / "runs.parquet", "runs", runs, metadata)


def merge_load_requests(directory: Path) -> None:
    """All requests into one file. Interrupted at any point, nothing is lost or counted twice."""
    parts = _parts(directory)
    if not parts:
        return
    run_ids = _read(directory / "runs.parquet", "runs", RUN_SCHEMA).table["run_id"]
    table, metadata = _requests(directory, run_ids)
    _write_table(directory / "requests.parquet", "requests", table, metadata)
    for path in parts:
        path.unlink()


def load_load_records(directory: Path) -> LoadRecords:
    """Runs and requests. Raises ProfileError naming file, field and mend for an unusable file."""
    runs, metadata = _read(directory / "runs.parquet", "runs", RUN_SCHEMA)
    requests, _ = _requests(directory, runs["run_id"])
    return LoadRecords(
        tuple(RunRow(**_with_tuples(row)) for row in runs.to_pylist()),
        tuple(RequestRow(**_with_tuples(row)) for row in requests.to_pylist()),
        metadata,
    )


def _with_tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(one) if isinstance(one, list) else one for key, one in row.items()}


def _parts(directory: Path) -> list[Path]:
    return sorted(directory.glob("requests-*.parquet"))


def _requests(directory: Path, run_ids: pa.ChunkedArray) -> ProfileFile:
    """The requests of known runs. A part that a merge was to remove adds none of its run again."""
    merged = directory / "requests.parquet"
    paths = [merged] if merged.exists() or not _parts(directory) else []
    tables: list[pa.Table] = []
    metadata: dict[str, str] = {}
    for path in [*paths, *_parts(directory)]:
        table, metadata = _read(path, "requests", REQUEST_SCHEMA)
        wanted = pc.is_in(table["run_id"], run_ids)
        for earlier in tables[:1]:
            wanted = pc.and_not(wanted, pc.is_in(table["run_id"], earlier["run_id"]))
        tables.append(table.filter(wanted).replace_schema_metadata(None))
    return ProfileFile(pa.concat_tables(tables), metadata)


def _read(path: Path, name: str, schema: pa.Schema) -> ProfileFile:
    return read_profile(
        path,
        kind=f"dspark-load-{name}",
        format_version=_FORMAT_VERSION,
        schema=lambda _: schema,
    )


def _write(
    path: Path, name: str, rows: Sequence[RunRow | RequestRow], metadata: Mapping[str, str]
) -> None:
    schema = RUN_SCHEMA if name == "runs" else REQUEST_SCHEMA
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
    _write_table(path, name, table, metadata)


def _write_table(path: Path, name: str, table: pa.Table, metadata: Mapping[str, str]) -> None:
    kind = f"dspark-load-{name}"
    write_profile(path, table, kind=kind, format_version=_FORMAT_VERSION, metadata=metadata)
