"""An evaluation as pictures: acceptance length, acceptance by position, reliability."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from drafters.evaluation.splits import (
    MACRO_AVERAGE,
    BenchmarkCells,
    benchmark_cells,
    by_mode,
)
from profiles.evaluation import EvaluatedDrafts
from profiles.labels import survival_labels
from profiles.reliability import reliability_curve

mpl.use("Agg")  # files only, also where there is a display


def save_plots(drafts: EvaluatedDrafts, directory: Path) -> list[Path]:
    """Write the three pictures as PNG files; returns their paths."""
    pictures = save_acceptance_plots(benchmark_cells(drafts), directory)
    return [*pictures, _save(reliability(drafts), directory / "reliability.png")]


def save_acceptance_plots(modes: BenchmarkCells, directory: Path) -> list[Path]:
    """Write the two pictures that need no single draft; returns their paths."""
    return [
        _save(acceptance_lengths(modes), directory / "acceptance_length.png"),
        _save(acceptance_by_position(modes), directory / "acceptance_by_position.png"),
    ]


def _save(figure: Figure, path: Path) -> Path:
    figure.savefig(path, dpi=120)
    return path


def acceptance_lengths(modes: BenchmarkCells) -> Figure:
    """A bar per benchmark and mode, with the standard error over prompts where there is one."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(modes)
    for i, (mode, cells) in enumerate(modes.items()):
        x = np.arange(len(cells)) + i * width
        errors = [cell.standard_error for cell in cells.values()]
        axes.bar(x, [cell.length for cell in cells.values()], width, yerr=errors, label=mode)
        axes.set_xticks(x - i * width / 2, list(cells), rotation=30, ha="right")
    axes.set_ylabel("acceptance length (tokens per target step)")
    axes.legend()
    return figure


def acceptance_by_position(modes: BenchmarkCells) -> Figure:
    """P(accepted | all earlier positions accepted), a line per benchmark, a panel per mode."""
    figure = Figure(figsize=(5 * len(modes), 4), layout="constrained")
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, (mode, cells) in zip(panels, modes.items(), strict=True):
        for name, cell in cells.items():
            style = {"color": "black", "linewidth": 2.5} if name == MACRO_AVERAGE else {}
            axes.plot(range(1, len(cell.by_position) + 1), cell.by_position, label=name, **style)
        axes.set(title=mode, xlabel="position in the draft", ylim=(0, 1))
    panels[0].set_ylabel("P(accepted | earlier ones accepted)")
    panels[-1].legend(fontsize="small")
    return figure


def reliability(drafts: EvaluatedDrafts) -> Figure:
    """Predicted against actual survival, a line per position, a panel per mode."""
    modes = by_mode(drafts)
    figure = Figure(figsize=(4.5 * len(modes), 4.5), layout="constrained")
    panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axes, (mode, of_mode) in zip(panels, modes.items(), strict=True):
        outcomes = of_mode.outcomes
        survival = np.cumprod(outcomes.confidences, axis=1, dtype=np.float64)
        labels = survival_labels(outcomes.num_admitted, outcomes.num_accepted, outcomes.block_size)
        axes.plot((0, 1), (0, 1), color="grey", linestyle=":")
        for k in range(outcomes.block_size):
            rows = labels.counts[:, k]
            curve = reliability_curve(survival[rows, k], labels.survived[rows, k])
            axes.plot(curve.predicted, curve.happened, marker=".", label=f"position {k + 1}")
        axes.set(title=mode, xlabel="predicted survival", xlim=(0, 1), ylim=(0, 1))
    panels[0].set_ylabel("share that survived")
    panels[-1].legend(fontsize="small")
    return figure
