"""Calibration profiles: temperatures per position, for one target and its drafter."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from datetime import date
from itertools import groupby
from pathlib import Path

import pyarrow as pa

from profiles.calibration_key import CalibrationKey
from profiles.parquet import read_profile, write_profile
from profiles.provenance import DraftingPair, ProfileError, candidates_of, check_provenance
from profiles.reliability import Errors, average

_KIND = "dspark-calibration"
_FORMAT_VERSION = 1
_SUMMARY = (
    "version",
    "measured_on",
    "verification_modes",
    "temperature_bins",
    "num_labels",
    "held_out_ece_before",
    "held_out_ece_after",
)


@dataclass(frozen=True, slots=True)
class PositionCalibration:
    """One position's STS temperature, and the errors of survival on held-out prompts.

    `num_labels` were fitted on; `before` and `after` calibrating, NaN where undefined.
    """

    sts_temperature: float
    num_labels: int
    before: Errors
    after: Errors


@dataclass(frozen=True, slots=True)
class CalibrationProfile:
    """Calibrations of one drafting pair by key, each with its positions in order.

    `version` rises with every profile that replaces another. Sampled drafts were drawn from the
    `num_candidates` likeliest tokens, None where nobody said: with others fewer or more survive.
    """

    pair: DraftingPair
    version: int
    measured_on: date
    entries: Mapping[CalibrationKey, tuple[PositionCalibration, ...]]
    num_candidates: int | None = None

    def temperatures(self, key: CalibrationKey) -> tuple[float, ...] | None:
        """STS temperatures of positions 1 to gamma, None for a key without a calibration."""
        positions = self.entries.get(key)
        return None if positions is None else tuple(p.sts_temperature for p in positions)


@dataclass(frozen=True, slots=True)
class _Row:
    """One position of one calibration, as a profile's file lists it. Position 1 is first."""

    verification_mode: str
    temperature_bin: str
    position: int
    sts_temperature: float
    num_labels: int
    num_held_out_labels: int
    held_out_ece_before: float
    held_out_ece_after: float
    held_out_auc_before: float
    held_out_auc_after: float
    held_out_brier_before: float
    held_out_brier_after: float

    @property
    def key(self) -> CalibrationKey:
        return CalibrationKey(self.verification_mode, self.temperature_bin)


_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
CALIBRATION_SCHEMA = pa.schema(
    [(field.name, _ARROW_TYPES[str(field.type)]) for field in fields(_Row)]
)
"""Temperatures and errors are plain numbers, labels and positions are counts."""


def save_calibration(path: Path, profile: CalibrationProfile) -> None:
    """Write a profile; where it comes from goes into the metadata."""
    rows = [
        _row(key, k, position)
        for key, positions in sorted(profile.entries.items())
        for k, position in enumerate(positions, start=1)
    ]
    columns = {name: [getattr(row, name) for row in rows] for name in CALIBRATION_SCHEMA.names}
    table = pa.Table.from_pydict(columns, schema=CALIBRATION_SCHEMA)
    metadata = profile.pair.as_metadata() | _summary(profile)
    if profile.num_candidates is not None:
        metadata["num_candidates"] = str(profile.num_candidates)
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata=metadata)


def load_calibration(
    path: Path, expected: DraftingPair | None = None, overridden: Collection[str] = ()
) -> CalibrationProfile:
    """A profile, of the `expected` pair where one is given.

    Raises ProvenanceError naming the keys of the pair that differ, except those in
    `overridden`; ProfileError naming file, field and mend for a file that cannot be used.
    """
    table, metadata = read_profile(
        path,
        kind=_KIND,
        format_version=_FORMAT_VERSION,
        schema=lambda _: CALIBRATION_SCHEMA,
        required=(*DraftingPair.__slots__, *_SUMMARY),
    )
    if expected is not None:
        check_provenance(path, metadata, expected.as_metadata(), overridden)
    rows = [_Row(**row) for row in table.to_pylist()]
    rows.sort(key=lambda row: (row.key, row.position))
    entries = {}
    for key, positions in groupby(rows, key=lambda row: row.key):
        entries[key] = tuple(_position(path, row, k) for k, row in enumerate(positions, start=1))
    try:
        version, measured_on = int(metadata["version"]), date.fromisoformat(metadata["measured_on"])
    except ValueError as error:
        raise ProfileError(f"{path}: its metadata is unusable ({error}); write it again") from None
    pair, num_candidates = DraftingPair.from_metadata(metadata), candidates_of(path, metadata)
    return CalibrationProfile(pair, version, measured_on, entries, num_candidates)


def _summary(profile: CalibrationProfile) -> dict[str, str]:
    """What a reader of the metadata alone learns; errors are means over positions and keys."""
    positions = [p for key in profile.entries for p in profile.entries[key]]
    return dict(
        zip(
            _SUMMARY,
            (
                str(profile.version),
                profile.measured_on.isoformat(),
                ",".join(sorted({key.verification_mode for key in profile.entries})),
                ",".join(sorted({key.temperature_bin for key in profile.entries})),
                str(sum(p.num_labels for p in positions)),
                f"{average([p.before for p in positions]).ece:.6f}",
                f"{average([p.after for p in positions]).ece:.6f}",
            ),
            strict=True,
        )
    )


def _row(key: CalibrationKey, k: int, position: PositionCalibration) -> _Row:
    before, after = position.before, position.after
    return _Row(
        verification_mode=key.verification_mode,
        temperature_bin=key.temperature_bin,
        position=k,
        sts_temperature=position.sts_temperature,
        num_labels=position.num_labels,
        num_held_out_labels=after.num_labels,
        held_out_ece_before=before.ece,
        held_out_ece_after=after.ece,
        held_out_auc_before=before.auc,
        held_out_auc_after=after.auc,
        held_out_brier_before=before.brier,
        held_out_brier_after=after.brier,
    )


def _position(path: Path, row: _Row, k: int) -> PositionCalibration:
    """From `row`, which has to be that of position `k`."""
    if row.position != k:
        raise ProfileError(
            f"{path}: column position of {'/'.join(row.key)} has {row.position} where {k} "
            "belongs; calibrate again"
        )
    if not 0 < row.sts_temperature < float("inf"):
        raise ProfileError(
            f"{path}: column sts_temperature of {'/'.join(row.key)}, position {k}, is "
            f"{row.sts_temperature}, not a positive number; calibrate again"
        )
    n = row.num_held_out_labels
    return PositionCalibration(
        sts_temperature=row.sts_temperature,
        num_labels=row.num_labels,
        before=Errors(
            n, row.held_out_ece_before, row.held_out_auc_before, row.held_out_brier_before
        ),
        after=Errors(n, row.held_out_ece_after, row.held_out_auc_after, row.held_out_brier_after),
    )
