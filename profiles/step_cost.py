"""Step-cost profiles: what a target step, a prompt chunk and a draft take on one machine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa

from profiles.parquet import read_profile, write_profile
from profiles.provenance import ProfileError, ProvenanceError, check_provenance

VERIFY, PREFILL, DRAFT = "verify", "prefill", "draft"
PHASES = (VERIFY, PREFILL, DRAFT)
MEASURED, LEARNED, MODELLED = "measured", "learned", "modelled"
ORIGINS = (MEASURED, LEARNED, MODELLED)
"""Measured by `dspark profile`; learned by a fleet from its own steps; computed from data
sheets, for machines that nobody had."""

_KIND = "dspark-step-cost"
_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class EngineProvenance:
    """What a step cost belongs to. Every value is plain text and has to be the same.

    `hardware` names the processor or the GPUs, `parallelism` ranks and nodes (`tp2`,
    `tp2 over 2 nodes`), `driver` the GPU's, or the number of threads on processors.
    `model_revision` changes with the weights: see `profiles.fingerprint`.
    """

    hardware: str
    model_id: str
    model_revision: str
    dtype: str
    parallelism: str
    engine: str
    engine_version: str
    driver: str

    def as_metadata(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> EngineProvenance:
        """Raises KeyError for a key that is missing."""
        return cls(**{field.name: metadata[field.name] for field in fields(cls)})


@dataclass(frozen=True, slots=True)
class StepCostRow:
    """Steps of one kind and size: the median seconds of `num_steps`, and their spread.

    `phase` is one of `PHASES`. In a step of `n_requests`, `n_tokens` are computed while
    `context_tokens` per request are there already; a draft's `n_tokens` are those it makes.
    `spread_s` is the distance of the quartiles. `fitted_cost_s` is what the monotone fit
    through all rows of the phase gives here, NaN before there is one.
    """

    phase: str
    n_tokens: int
    n_requests: int
    context_tokens: float
    step_cost_s: float
    spread_s: float
    num_steps: int
    fitted_cost_s: float = math.nan

    @property
    def residual(self) -> float:
        """By how much, relatively, the fit is off."""
        return self.fitted_cost_s / self.step_cost_s - 1


_ARROW_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
STEP_COST_SCHEMA = pa.schema(
    [(field.name, _ARROW_TYPES[str(field.type)]) for field in fields(StepCostRow)]
)


@dataclass(frozen=True, slots=True)
class StepCostProfile:
    """Rows of one engine on one machine. `origin` is one of `ORIGINS`.

    A modelled profile says its `assumptions`. `version` rises with every profile that
    replaces another; `drafter_version` is that of the drafter whose drafts were timed.
    """

    provenance: EngineProvenance
    origin: str
    measured_on: date
    rows: tuple[StepCostRow, ...]
    version: int = 1
    drafter_version: str = ""
    assumptions: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.origin not in ORIGINS:
            raise ValueError(f"origin {self.origin!r} is not one of {', '.join(ORIGINS)}")
        if (self.origin == MODELLED) != bool(self.assumptions):
            raise ValueError("a modelled profile, and no other, states its assumptions")

    def of(self, phase: str) -> tuple[StepCostRow, ...]:
        """The rows of one phase."""
        return tuple(row for row in self.rows if row.phase == phase)


def save_step_cost(path: Path, profile: StepCostProfile) -> None:
    """Write a profile; where it comes from goes into the metadata."""
    columns = {name: [getattr(row, name) for row in profile.rows] for name in _COLUMNS}
    table = pa.Table.from_pydict(columns, schema=STEP_COST_SCHEMA)
    metadata = {
        **profile.provenance.as_metadata(),
        "origin": profile.origin,
        "measured_on": profile.measured_on.isoformat(),
        "version": str(profile.version),
        "drafter_version": profile.drafter_version,
        "assumptions": "\n".join(profile.assumptions),
    }
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata=metadata)


def load_step_cost(
    path: Path,
    expected: EngineProvenance | None = None,
    overridden: Collection[str] = (),
    *,
    may_be_modelled: bool = False,
) -> StepCostProfile:
    """A profile, for the `expected` engine and machine where they are given.

    Raises ProvenanceError naming the keys that differ, except those in `overridden`, and for
    a modelled profile unless it may be one; ProfileError naming file, field and mend for a
    file that cannot be used.
    """
    table, metadata = read_profile(
        path,
        kind=_KIND,
        format_version=_FORMAT_VERSION,
        schema=lambda _: STEP_COST_SCHEMA,
        required=(*EngineProvenance.__slots__, *_OTHER_KEYS),
    )
    if metadata["origin"] == MODELLED and not may_be_modelled:
        raise ProvenanceError(
            f"{path} was modelled, not measured: origin is {MODELLED!r}. Measure this machine "
            "with dspark profile"
        )
    if expected is not None:
        check_provenance(path, metadata, expected.as_metadata(), overridden)
    rows = tuple(StepCostRow(**row) for row in table.to_pylist())
    _check_rows(path, rows)
    try:
        return StepCostProfile(
            EngineProvenance.from_metadata(metadata),
            origin=metadata["origin"],
            measured_on=date.fromisoformat(metadata["measured_on"]),
            rows=rows,
            version=int(metadata["version"]),
            drafter_version=metadata["drafter_version"],
            assumptions=tuple(filter(None, metadata["assumptions"].split("\n"))),
        )
    except ValueError as error:
        raise ProfileError(f"{path}: its metadata is unusable ({error}); write it again") from None


_COLUMNS = STEP_COST_SCHEMA.names
_OTHER_KEYS = ("origin", "measured_on", "version", "drafter_version", "assumptions")


def _check_rows(path: Path, rows: Iterable[StepCostRow]) -> None:
    for i, row in enumerate(rows):
        wrong = _wrong_field(row)
        if wrong is not None:
            value: Any = getattr(row, wrong)
            raise ProfileError(f"{path}: {wrong} of row {i} cannot be {value!r}; measure again")


def _wrong_field(row: StepCostRow) -> str | None:
    """The field that no measurement gives; None where all is well."""
    possible = {
        "phase": row.phase in PHASES,
        "n_tokens": row.n_tokens >= 1,
        "n_requests": 1 <= row.n_requests <= row.n_tokens,
        "context_tokens": 0 <= row.context_tokens < math.inf,
        "step_cost_s": 0 < row.step_cost_s < math.inf,
        "spread_s": 0 <= row.spread_s < math.inf,
        "num_steps": row.num_steps >= 1,
    }
    return next((name for name, holds in possible.items() if not holds), None)
