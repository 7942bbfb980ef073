"""An evaluation's drafts in parts: by mode, benchmark, context position and turn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from profiles.acceptance import Acceptance, acceptance, bucket_name, context_buckets, macro_average
from profiles.evaluation import EvaluatedDrafts

MACRO_AVERAGE = "macro average"
FIRST_TURN, LATER_TURNS = "first turn", "later turns"

Split = dict[str, EvaluatedDrafts]
"""Parts by name, in the order in which they are shown."""

BenchmarkCells = dict[str, dict[str, Acceptance]]
"""By mode, then by benchmark, the macro average last where there are several."""


def by_mode(drafts: EvaluatedDrafts) -> Split:
    """Greedy first, then rising temperatures; thinking off before on."""
    temperatures = drafts.outcomes.sampling_temperatures
    thinking = drafts.places.thinking
    modes = sorted(set(zip(temperatures.tolist(), thinking.tolist(), strict=True)))
    return {
        mode_name(temperature, switch): drafts.select(
            (temperatures == temperature) & (thinking == switch)
        )
        for temperature, switch in modes
    }


def by_benchmark(drafts: EvaluatedDrafts) -> Split:
    """In the order of the benchmarks' names."""
    names = drafts.places.benchmark
    return {str(name): drafts.select(names == name) for name in np.unique(names)}


def by_context(drafts: EvaluatedDrafts) -> Split:
    """By bucket of the anchor's position, the early ones first."""
    return _by_number(drafts, context_buckets(drafts.places.context_tokens), bucket_name)


def by_turn(drafts: EvaluatedDrafts) -> Split:
    """First turns, and later ones."""
    is_later = (drafts.places.turn > 1).astype(np.int64)
    return _by_number(drafts, is_later, (FIRST_TURN, LATER_TURNS).__getitem__)


def acceptances(parts: Split) -> dict[str, Acceptance]:
    return {name: acceptance(of.outcomes) for name, of in parts.items()}


def with_macro_average(benchmarks: dict[str, Acceptance]) -> dict[str, Acceptance]:
    """The same and, of several, their macro average."""
    if len(benchmarks) < 2:
        return benchmarks
    return {**benchmarks, MACRO_AVERAGE: macro_average(list(benchmarks.values()))}


def benchmark_cells(drafts: EvaluatedDrafts) -> BenchmarkCells:
    """The acceptance of an evaluation's every mode and benchmark."""
    return {
        mode: with_macro_average(acceptances(by_benchmark(of)))
        for mode, of in by_mode(drafts).items()
    }


def mode_name(temperature: float, thinking: str) -> str:
    name = "greedy" if temperature == 0 else f"temperature {temperature:g}"
    return name if thinking == "none" else f"{name}, thinking {thinking}"


def _by_number(
    drafts: EvaluatedDrafts, numbers: NDArray[np.int64], name: Callable[[int], str]
) -> Split:
    return {name(int(n)): drafts.select(numbers == n) for n in np.unique(numbers)}
