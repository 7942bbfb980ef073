"""An evaluation as Markdown: acceptance by benchmark, position, context and turn; confidences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from profiles.acceptance import (
    Acceptance,
    acceptance,
    bucket_name,
    context_buckets,
    macro_average,
)
from profiles.evaluation import EvaluatedDrafts
from profiles.reliability import average, errors_by_position

MACRO_AVERAGE = "macro average"

Split = dict[str, EvaluatedDrafts]
"""Drafts by a name, in the order of a table's rows or columns."""


def by_mode(drafts: EvaluatedDrafts) -> Split:
    """Greedy first, then rising temperatures; thinking off before on."""
    temperatures = drafts.outcomes.sampling_temperatures
    thinking = drafts.places.thinking
    modes = sorted(set(zip(temperatures.tolist(), thinking.tolist(), strict=True)))
    return {
        _mode_name(temperature, switch): drafts.select(
            (temperatures == temperature) & (thinking == switch)
        )
        for temperature, switch in modes
    }


def by_benchmark(drafts: EvaluatedDrafts) -> Split:
    """By benchmark, in the order of their names."""
    names = drafts.places.benchmark
    return {str(name): drafts.select(names == name) for name in np.unique(names)}


def by_context(drafts: EvaluatedDrafts) -> Split:
    """By bucket of the anchor's position, the early ones first."""
    return _by_number(drafts, context_buckets(drafts.places.context_tokens), bucket_name)


def by_turn(drafts: EvaluatedDrafts) -> Split:
    """First turns, and later ones."""
    later = (drafts.places.turn > 1).astype(np.int64)
    return _by_number(drafts, later, lambda number: ("first turn", "later turns")[number])


def acceptance_by_benchmark(drafts: EvaluatedDrafts) -> dict[str, Acceptance]:
    """Of each benchmark, and their macro average where there are several."""
    cells = {name: acceptance(of.outcomes) for name, of in by_benchmark(drafts).items()}
    if len(cells) > 1:
        cells[MACRO_AVERAGE] = macro_average(list(cells.values()))
    return cells


def format_report(drafts: EvaluatedDrafts, metadata: Mapping[str, str], seconds: float) -> str:
    """The whole report. `metadata` are those of the evaluation's files."""
    modes = by_mode(drafts)
    lines = [
        f"# {metadata['drafter_id']} for {metadata['model_id']}",
        "",
        f"{len(drafts.outcomes)} drafts of {drafts.outcomes.block_size} tokens, all of them "
        f"verified, in {seconds:.0f} s. Acceptance length: tokens committed per target step, "
        "bonus token included, with its standard error over prompts.",
        "",
        *_table(("", ""), metadata.items()),
        "## Acceptance length by benchmark",
        "",
        *_lengths(modes, acceptance_by_benchmark),
    ]
    lines += ["## P(accepted | all earlier positions accepted), by position", ""]
    for name, of_mode in modes.items():
        positions = [str(k) for k in range(1, drafts.outcomes.block_size + 1)]
        cells = acceptance_by_benchmark(of_mode)
        rows = [(b, *(f"{rate:.3f}" for rate in c.by_position)) for b, c in cells.items()]
        lines += _table((name, *positions), rows)
    lines += [
        "## By context position, in tokens",
        "",
        *_lengths(modes, _split_acceptance(by_context)),
    ]
    lines += ["## By turn", "", *_lengths(modes, _split_acceptance(by_turn))]
    lines += ["## Survival by the drafter's own confidences, not calibrated", ""]
    for name, of_mode in modes.items():
        lines += _table((name, "labels", "ECE, %", "AUC", "Brier"), _reliability(of_mode))
    return "\n".join(lines)


def _mode_name(temperature: float, thinking: str) -> str:
    name = "greedy" if temperature == 0 else f"temperature {temperature:g}"
    return name if thinking == "none" else f"{name}, thinking {thinking}"


def _by_number(
    drafts: EvaluatedDrafts, numbers: NDArray[np.int64], name: Callable[[int], str]
) -> Split:
    return {name(int(n)): drafts.select(numbers == n) for n in np.unique(numbers)}


def _split_acceptance(
    split: Callable[[EvaluatedDrafts], Split],
) -> Callable[[EvaluatedDrafts], dict[str, Acceptance]]:
    def cells(drafts: EvaluatedDrafts) -> dict[str, Acceptance]:
        return {name: acceptance(of.outcomes) for name, of in split(drafts).items()}

    return cells


def _lengths(
    modes: Split, cells_of: Callable[[EvaluatedDrafts], dict[str, Acceptance]]
) -> list[str]:
    """A row per name that `cells_of` gives, a column per mode."""
    columns = [cells_of(of_mode) for of_mode in modes.values()]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [
        (
            name,
            str(max(column[name].num_prompts for column in columns if name in column)),
            *(_length(column.get(name)) for column in columns),
        )
        for name in names
    ]
    return _table(("", "prompts", *modes), rows)


def _length(cell: Acceptance | None) -> str:
    if cell is None:
        return ""
    error = "" if np.isnan(cell.standard_error) else f" ± {cell.standard_error:.2f}"
    return f"{cell.length:.2f}{error}"


def _reliability(drafts: EvaluatedDrafts) -> Iterator[tuple[str, ...]]:
    outcomes = drafts.outcomes
    survival = np.cumprod(outcomes.confidences, axis=1)
    errors = errors_by_position(survival, outcomes.num_admitted, outcomes.num_accepted)
    for name, e in [*((str(k), e) for k, e in enumerate(errors, 1)), ("mean", average(errors))]:
        labels = str(e.num_labels) if name != "mean" else ""
        yield name, labels, f"{100 * e.ece:.2f}", f"{e.auc:.3f}", f"{e.brier:.4f}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]
