"""Load traces: who asks for what, and when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa

from profiles.parquet import read_profile, write_profile
from profiles.provenance import ProfileError

_KIND = "dspark-load-trace"
_FORMAT_VERSION = 1
Rate = Callable[[float], float]
"""Arrivals per second at a time, in units of the mean."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of a trace; `text` says whose text it is, for the simulation alone."""

    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    service_class: str
    text: int = 0


@dataclass(frozen=True, slots=True)
class TraceShape:
    """Log-normal lengths around their medians, and the share of each service class."""

    prompt_tokens: int = 300
    output_tokens: int = 160
    spread: float = 0.5
    max_prompt_tokens: int = 4000
    max_output_tokens: int = 512

    @property
    def mean_prompt_tokens(self) -> float:
        return float(self.prompt_tokens * np.exp(self.spread**2 / 2))

    @property
    def mean_output_tokens(self) -> float:
        return float(self.output_tokens * np.exp(self.spread**2 / 2))


def draw_trace(
    rng: np.random.Generator,
    shape: TraceShape,
    *,
    rate_per_s: float,
    duration_s: float,
    classes: Sequence[str],
    rate: Rate = lambda _: 1.0,
    peak: float = 1.0,
) -> list[Arrival]:
    """Poisson arrivals at `rate_per_s` times `rate`, which never exceeds `peak` (thinning)."""
    arrivals: list[Arrival] = []
    at_s = 0.0
    while True:
        at_s += rng.exponential(1 / (rate_per_s * peak))
        if at_s >= duration_s:
            return arrivals
        keep, lengths = rng.random(), rng.lognormal(0, shape.spread, 2)
        name, text = classes[int(rng.integers(len(classes)))], int(rng.integers(1 << 30))
        if keep * peak < rate(at_s):
            prompt = min(max(1, int(shape.prompt_tokens * lengths[0])), shape.max_prompt_tokens)
            output = min(max(2, int(shape.output_tokens * lengths[1])), shape.max_output_tokens)
            arrivals.append(Arrival(at_s, prompt, output, name, text))


_TYPES = {"float": pa.float64(), "int": pa.int64(), "str": pa.string()}
TRACE_SCHEMA = pa.schema([(f.name, _TYPES[str(f.type)]) for f in fields(Arrival)])


def save_trace(path: Path, trace: Sequence[Arrival]) -> None:
    """Write a trace as Parquet."""
    columns = {name: [getattr(one, name) for one in trace] for name in TRACE_SCHEMA.names}
    table = pa.Table.from_pydict(columns, schema=TRACE_SCHEMA)
    write_profile(path, table, kind=_KIND, format_version=_FORMAT_VERSION, metadata={})


def load_trace(path: Path) -> list[Arrival]:
    """A trace in order of arrival. Raises ProfileError naming file, field and mend."""
    table, _ = read_profile(
        path, kind=_KIND, format_version=_FORMAT_VERSION, schema=lambda _: TRACE_SCHEMA
    )
    trace = sorted((Arrival(**row) for row in table.to_pylist()), key=lambda one: one.arrival_s)
    for one in trace:
        if not (one.arrival_s >= 0 and one.prompt_tokens >= 1 and one.output_tokens >= 1):
            raise ProfileError(f"{path}: {one} cannot be served; write the trace again")
    return trace
