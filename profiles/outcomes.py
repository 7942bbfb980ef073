"""What became of drafts: one row per draft, as an evaluation or a served fleet saw it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from profiles.calibration_key import VERIFICATION_MODES, CalibrationKey, calibration_key
from profiles.parquet import ProfileFile, read_profile, write_profile
from profiles.provenance import DraftingPair, ProfileError, candidates_of

_KIND = "dspark-outcomes"
_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Outcomes:
    """N drafts of up to gamma tokens, column by column.

    `confidences` [N, gamma] are the drafter's own, before any calibration. Of each draft the
    first `num_admitted` [N] tokens were verified, decided before they were drawn or from
    confidences up to them alone; `num_accepted` [N] of those were accepted, the bonus token
    excluded. A `prompt_id` is shared by all drafts of one prompt. Raises ValueError naming
    the column that cannot be.
    """

    prompt_ids: tuple[str, ...]
    domains: tuple[str, ...]
    verification_modes: tuple[str, ...]
    sampling_temperatures: NDArray[np.float64]
    confidences: NDArray[np.float64]
    num_admitted: NDArray[np.int64]
    num_accepted: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.confidences.ndim != 2 or not self.block_size:
            raise ValueError(f"confidences have shape {self.confidences.shape}, not [N, gamma]")
        num_drafts = len(self.confidences)
        for name in self.__slots__:
            if len(getattr(self, name)) != num_drafts:
                raise ValueError(f"{name} has not as many rows as confidences, {num_drafts}")
        unknown = set(self.verification_modes) - set(VERIFICATION_MODES)
        if unknown:
            raise ValueError(f"verification_mode {min(unknown)!r} is not in {VERIFICATION_MODES}")
        _check("sampling_temperature", self.sampling_temperatures >= 0, "0 or more")
        _check("confidences", (self.confidences >= 0) & (self.confidences <= 1), "in 0 to 1")
        admitted, accepted = self.num_admitted, self.num_accepted
        _check("num_admitted", (admitted >= 0) & (admitted <= self.block_size), "in 0 to gamma")
        _check("num_accepted", (accepted >= 0) & (accepted <= admitted), "in 0 to num_admitted")

    def __len__(self) -> int:
        return len(self.confidences)

    @property
    def block_size(self) -> int:
        """gamma: positions per draft."""
        return int(self.confidences.shape[1])

    def keys(self) -> list[CalibrationKey]:
        """Per draft, what its calibration depends on."""
        temperatures = self.sampling_temperatures.tolist()
        return list(map(calibration_key, self.verification_modes, temperatures))

    def select(self, rows: NDArray[np.bool_]) -> Outcomes:
        """The drafts where `rows` [N] is True."""
        kept = np.flatnonzero(rows).tolist()
        return Outcomes(
            prompt_ids=tuple(self.prompt_ids[i] for i in kept),
            domains=tuple(self.domains[i] for i in kept),
            verification_modes=tuple(self.verification_modes[i] for i in kept),
            sampling_temperatures=self.sampling_temperatures[rows],
            confidences=self.confidences[rows],
            num_admitted=self.num_admitted[rows],
            num_accepted=self.num_accepted[rows],
        )


def outcomes_schema(block_size: int) -> pa.Schema:
    """The columns of an outcomes file: counts are draft tokens, confidences probabilities."""
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("domain", pa.string()),
            ("verification_mode", pa.string()),
            ("sampling_temperature", pa.float32()),
            ("confidences", pa.list_(pa.float32(), block_size)),
            ("num_admitted", pa.int32()),
            ("num_accepted", pa.int32()),
        ]
    )


def outcomes_table(outcomes: Outcomes) -> pa.Table:
    """`outcomes` in the columns of `outcomes_schema`."""
    gamma = outcomes.block_size
    flat = pa.array(outcomes.confidences.astype(np.float32).ravel())
    columns = [
        pa.array(outcomes.prompt_ids, pa.string()),
        pa.array(outcomes.domains, pa.string()),
        pa.array(outcomes.verification_modes, pa.string()),
        pa.array(outcomes.sampling_temperatures.astype(np.float32)),
        pa.FixedSizeListArray.from_arrays(flat, gamma),
        pa.array(outcomes.num_admitted.astype(np.int32)),
        pa.array(outcomes.num_accepted.astype(np.int32)),
    ]
    return pa.Table.from_arrays(columns, schema=outcomes_schema(gamma))


def save_outcomes(path: Path, outcomes: Outcomes, pair: DraftingPair) -> None:
    """Write `outcomes`; which target and drafter they are of goes into the metadata."""
    write_outcomes(path, outcomes_table(outcomes), pair.as_metadata(), outcomes.block_size)


def write_outcomes(
    path: Path, table: pa.Table, metadata: Mapping[str, str], block_size: int
) -> None:
    """Write a `table` that has the columns of `outcomes_schema`, and may have others."""
    described = {**metadata, "block_size": str(block_size)}
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata=described)


class OutcomesFile(NamedTuple):
    """Outcomes, whose they are, and from how many of the likeliest tokens sampled drafts were
    drawn (None where that is not known)."""

    outcomes: Outcomes
    pair: DraftingPair
    num_candidates: int | None


def load_outcomes(path: Path) -> OutcomesFile:
    """Raises ProfileError naming file, field and mend."""
    table, metadata = read_outcomes(path, outcomes_schema)
    pair = DraftingPair.from_metadata(metadata)
    return OutcomesFile(outcomes_of(path, table), pair, candidates_of(path, metadata))


def read_outcomes(path: Path, schema: Callable[[int], pa.Schema]) -> ProfileFile:
    """A file with the columns of `schema`, a function of gamma. Raises ProfileError."""
    return read_profile(
        path,
        kind=_KIND,
        format_version=_FORMAT_VERSION,
        schema=lambda metadata: schema(int(metadata["block_size"])),
        required=DraftingPair.__slots__,
    )


def outcomes_of(path: Path, table: pa.Table) -> Outcomes:
    """The outcomes in a `table` of the file `path`. Raises ProfileError naming the column."""
    block_size = table.schema.field("confidences").type.list_size
    flat = table.column("confidences").combine_chunks().flatten()
    confidences = flat.to_numpy(zero_copy_only=False)  # NaN where there is none
    try:
        return Outcomes(
            prompt_ids=tuple(table.column("prompt_id").to_pylist()),
            domains=tuple(table.column("domain").to_pylist()),
            verification_modes=tuple(table.column("verification_mode").to_pylist()),
            sampling_temperatures=_numbers(table, "sampling_temperature").astype(np.float64),
            confidences=confidences.reshape(len(table), block_size).astype(np.float64),
            num_admitted=_numbers(table, "num_admitted").astype(np.int64),
            num_accepted=_numbers(table, "num_accepted").astype(np.int64),
        )
    except ValueError as error:
        raise ProfileError(f"{path}: {error}; evaluate again") from None


def _numbers(table: pa.Table, column: str) -> NDArray[Any]:
    numbers: NDArray[Any] = table.column(column).to_numpy()
    return numbers


def _check(name: str, holds: NDArray[np.bool_], needed: str) -> None:
    if not holds.all():  # also where a value is NaN
        row = int(np.flatnonzero(~holds.reshape(len(holds), -1).all(axis=1))[0])
        raise ValueError(f"{name} of row {row} is not {needed}")
