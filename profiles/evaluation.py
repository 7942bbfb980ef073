"""What an evaluation measured: outcomes of drafts, and where each was made.

Its file is an outcomes file with more columns, so `dspark calibrate` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profiles.outcomes import (
    Outcomes,
    outcomes_of,
    outcomes_schema,
    outcomes_table,
    read_outcomes,
    write_outcomes,
)
from profiles.provenance import check_provenance


@dataclass(frozen=True, slots=True)
class DraftPlaces:
    """Where N drafts were made, column by column.

    `thinking` is "on", "off", or "none" where the chat template knows nothing of it. `turn`
    is counted from 1; `context_tokens` stand before a draft's anchor.
    """

    benchmark: NDArray[np.str_]
    thinking: NDArray[np.str_]
    turn: NDArray[np.int64]
    context_tokens: NDArray[np.int64]


_ARROW_TYPES = {
    "benchmark": pa.string(),
    "thinking": pa.string(),
    "turn": pa.int32(),
    "context_tokens": pa.int32(),
}


class EvaluatedDrafts(NamedTuple):
    """N drafts: what became of them, and where they were made."""

    outcomes: Outcomes
    places: DraftPlaces

    def select(self, rows: NDArray[np.bool_]) -> EvaluatedDrafts:
        """The drafts where `rows` [N] is True."""
        places = DraftPlaces(*(getattr(self.places, name)[rows] for name in _ARROW_TYPES))
        return EvaluatedDrafts(self.outcomes.select(rows), places)


def joined(parts: Sequence[EvaluatedDrafts]) -> EvaluatedDrafts:
    """The drafts of all `parts`, at least one, in order."""

    outcomes = (_joined([getattr(p.outcomes, f.name) for p in parts]) for f in fields(Outcomes))
    places = (_joined([getattr(p.places, name) for p in parts]) for name in _ARROW_TYPES)
    return EvaluatedDrafts(Outcomes(*outcomes), DraftPlaces(*places))


def _joined(columns: list[Any]) -> Any:
    """Arrays or tuples, end to end."""
    if isinstance(columns[0], np.ndarray):
        return np.concatenate(columns)
    return tuple(chain.from_iterable(columns))


def evaluation_schema(block_size: int) -> pa.Schema:
    """The columns of outcomes, then those of their places."""
    return pa.schema([*outcomes_schema(block_size), *_ARROW_TYPES.items()])


def save_evaluation(path: Path, drafts: EvaluatedDrafts, metadata: Mapping[str, str]) -> None:
    """Write `drafts`; `metadata` says of which drafting pair, and how they were made."""
    table = outcomes_table(drafts.outcomes)
    for name, arrow_type in _ARROW_TYPES.items():
        column = pa.array(getattr(drafts.places, name).tolist(), arrow_type)
        table = table.append_column(pa.field(name, arrow_type), column)
    write_outcomes(path, table, metadata, drafts.outcomes.block_size)


def load_evaluation(
    path: Path, expected: Mapping[str, str] | None = None
) -> tuple[EvaluatedDrafts, dict[str, str]]:
    """The drafts in a file and its metadata.

    Raises ProfileError naming file, field and mend, ProvenanceError where a key of
    `expected` differs.
    """
    table, metadata = read_outcomes(path, evaluation_schema)
    if expected is not None:
        check_provenance(path, metadata, expected)
    columns = {name: table.column(name).to_pylist() for name in _ARROW_TYPES}
    places = DraftPlaces(*(np.array(values) for values in columns.values()))
    return EvaluatedDrafts(outcomes_of(path, table), places), metadata
