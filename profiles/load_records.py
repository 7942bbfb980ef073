"""What a load test recorded: a row per request and a row per run, as Parquet.

Two files in one directory, `requests.parquet` and `runs.parquet`. A run counts once its row
stands in the second: it is written last, and requests without a run are dropped on reading.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from profiles.parquet import read_profile, write_profile

OK, REFUSED, RESET, STALLED, TRUNCATED, MALFORMED = STATUSES = (
    "ok",
    "refused",
    "reset",
    "stalled",
    "truncated",
    "malformed",
)
"""How a request ended: answered in full; an HTTP error; the connection failed or was reset;
no byte for too long; the stream ended before its end was marked; bytes that are no answer."""

_FORMAT_VERSION = 1


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

    `load` is `closed`, `poisson`, ... and `load_value` its clients or requests per second.
    Until `window_s` the load was full; `wall_s` is when the last answer ended. `served_by` is
    the command or address behind the arm. Counts are the server's own, -1 where it has none:
    `committed_tokens`, `draft_tokens` verified and `accepted_tokens` of them in
    `verified_drafts` target steps per request. `cpu_s` is the processor time of the server's
    processes, `client_cpu_s` ours.
    """

    run_id: str
    arm: str
    model: str
    policy: str
    served_by: str
    num_replicas: int
    load: str
    load_value: float
    context_tokens: int
    round: int
    visit: int
    started_at: str
    window_s: float
    wall_s: float
    cpu_s: float
    client_cpu_s: float
    committed_tokens: int
    verified_drafts: int
    draft_tokens: int
    accepted_tokens: int


_TYPES = {
    "str": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "tuple[int, ...]": pa.list_(pa.int32()),
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


def save_load_records(
    directory: Path,
    runs: Sequence[RunRow],
    requests: Sequence[RequestRow],
    metadata: Mapping[str, str],
) -> None:
    """Write both files, the requests first."""
    for name, rows, schema in (
        ("requests", requests, REQUEST_SCHEMA),
        ("runs", runs, RUN_SCHEMA),
    ):
        table = pa.Table.from_pylist([asdict(row) for row in rows], schema=schema)
        write_profile(
            directory / f"{name}.parquet",
            table,
            kind=f"dspark-load-{name}",
            format_version=_FORMAT_VERSION,
            metadata=metadata,
        )


def load_load_records(directory: Path) -> LoadRecords:
    """Both files. Raises ProfileError naming file, field and mend for what cannot be used."""
    runs, metadata = _rows(directory / "runs.parquet", "runs", RUN_SCHEMA, RunRow)
    requests, _ = _rows(directory / "requests.parquet", "requests", REQUEST_SCHEMA, RequestRow)
    known = {run.run_id for run in runs}
    return LoadRecords(runs, tuple(row for row in requests if row.run_id in known), metadata)


def _rows(path: Path, name: str, schema: pa.Schema, row: type) -> tuple[Any, dict[str, str]]:
    table, metadata = read_profile(
        path,
        kind=f"dspark-load-{name}",
        format_version=_FORMAT_VERSION,
        schema=lambda _: schema,
    )
    lists = [field.name for field in schema if pa.types.is_list(field.type)]
    rows = tuple(
        row(**item | {column: tuple(item[column]) for column in lists})
        for item in table.to_pylist()
    )
    return rows, metadata
