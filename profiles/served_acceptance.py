"""What a served model accepted, by benchmark, mode, turn and context: totals, as Parquet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from profiles.acceptance import Acceptance
from profiles.parquet import read_profile, write_profile
from profiles.provenance import check_provenance

_KIND = "dspark-served-acceptance"
_FORMAT_VERSION = 2


@dataclass(frozen=True, slots=True)
class ServedCell:
    """One run: `num_prompts` prompts of a benchmark, all at one turn and with contexts of one
    bucket (`profiles.acceptance.context_buckets`), as their answers began.

    `verified_drafts` are target steps that verified a draft. By position [gamma]: draft
    tokens verified behind an accepted prefix, and those of them that were accepted.
    """

    benchmark: str
    sampling_temperature: float
    thinking: str
    turn: int
    context_bucket: int
    num_prompts: int
    committed_tokens: int
    verified_drafts: int
    reached_by_position: tuple[int, ...]
    accepted_by_position: tuple[int, ...]

    @property
    def acceptance(self) -> Acceptance:
        """Without an error, as totals do not tell prompts apart; NaN where nothing was drafted."""
        drafts = self.verified_drafts
        pairs = zip(self.accepted_by_position, self.reached_by_position, strict=True)
        return Acceptance(
            num_prompts=self.num_prompts,
            num_drafts=drafts,
            length=1 + sum(self.accepted_by_position) / drafts if drafts else math.nan,
            standard_error=math.nan,
            by_position=tuple(a / r if r else math.nan for a, r in pairs),
        )


SERVED_SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("sampling_temperature", pa.float64()),
        ("thinking", pa.string()),
        ("turn", pa.int32()),
        ("context_bucket", pa.int32()),
        ("num_prompts", pa.int32()),
        ("committed_tokens", pa.int64()),
        ("verified_drafts", pa.int64()),
        ("reached_by_position", pa.list_(pa.int64())),
        ("accepted_by_position", pa.list_(pa.int64())),
    ]
)
"""The fields of `ServedCell`."""


def summed(cells: Sequence[ServedCell]) -> Acceptance:
    """The acceptance of several runs together; turns of one benchmark share their prompts."""
    first = cells[0]
    by_turn: Counter[tuple[str, int]] = Counter()
    for cell in cells:
        by_turn[cell.benchmark, cell.turn] += cell.num_prompts
    num_prompts: dict[str, int] = {}
    for (benchmark, _), n in by_turn.items():
        num_prompts[benchmark] = max(n, num_prompts.get(benchmark, 0))
    positions = (
        tuple(map(sum, zip(*(getattr(cell, name) for cell in cells), strict=True)))
        for name in ("reached_by_position", "accepted_by_position")
    )
    return ServedCell(
        first.benchmark,
        first.sampling_temperature,
        first.thinking,
        first.turn,
        first.context_bucket,
        sum(num_prompts.values()),
        sum(cell.committed_tokens for cell in cells),
        sum(cell.verified_drafts for cell in cells),
        *positions,
    ).acceptance


def save_served(path: Path, cells: Sequence[ServedCell], metadata: Mapping[str, str]) -> None:
    """Write `cells`; `metadata` says of which service, and how they were made."""
    table = pa.Table.from_pylist([asdict(cell) for cell in cells], schema=SERVED_SCHEMA)
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata=metadata)


def load_served(path: Path, expected: Mapping[str, str] | None = None) -> list[ServedCell]:
    """The cells of a file. Raises ProfileError, ProvenanceError where `expected` differs."""
    table, metadata = read_profile(
        path, kind=_KIND, format_version=_FORMAT_VERSION, schema=lambda _: SERVED_SCHEMA
    )
    if expected is not None:
        check_provenance(path, metadata, expected)
    return [_cell(**row) for row in table.to_pylist()]


def _cell(
    reached_by_position: list[int], accepted_by_position: list[int], **others: Any
) -> ServedCell:
    return ServedCell(
        **others,
        reached_by_position=tuple(reached_by_position),
        accepted_by_position=tuple(accepted_by_position),
    )
