"""An evaluation as Markdown: acceptance by benchmark, position, context and turn; confidences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from drafters.evaluation.splits import (
    acceptances,
    benchmark_cells,
    by_context,
    by_mode,
    by_turn,
)
from drafters.evaluation.tables import length_table, position_table, table
from profiles.evaluation import EvaluatedDrafts
from profiles.reliability import Errors, average, errors_by_position


def format_report(drafts: EvaluatedDrafts, metadata: Mapping[str, str], seconds: float) -> str:
    """The whole report. `metadata` are those of the evaluation's files."""
    modes = by_mode(drafts)
    benchmarks = benchmark_cells(drafts)
    contexts = {mode: acceptances(by_context(of)) for mode, of in modes.items()}
    turns = {mode: acceptances(by_turn(of)) for mode, of in modes.items()}
    parts = [
        f"# {metadata['drafter_id']} for {metadata['model_id']}",
        f"{len(drafts.outcomes)} drafts of {drafts.outcomes.block_size} tokens, all of them "
        f"verified, in {seconds:.0f} s. Acceptance length: tokens committed per target step, "
        "bonus token included, with its standard error over prompts.",
        table(("", ""), metadata.items()),
        "## Acceptance length by benchmark",
        length_table(benchmarks),
        "## P(accepted | all earlier positions accepted), by position",
        *(position_table(mode, cells) for mode, cells in benchmarks.items()),
        "## Acceptance length by context position, in tokens",
        length_table(contexts),
        "## Acceptance length by turn",
        length_table(turns),
        "## Survival by the drafter's own confidences, not calibrated",
        *(_reliability_table(mode, of) for mode, of in modes.items()),
    ]
    return "\n\n".join(part.rstrip() for part in parts)


def _reliability_table(mode: str, drafts: EvaluatedDrafts) -> str:
    header = (mode, "labels", "ECE, %", "AUC", "Brier")
    return table(header, _reliability_rows(drafts))


def _reliability_rows(drafts: EvaluatedDrafts) -> Iterator[tuple[str, ...]]:
    outcomes = drafts.outcomes
    survival = np.cumprod(outcomes.confidences, axis=1, dtype=np.float64)
    errors = errors_by_position(survival, outcomes.num_admitted, outcomes.num_accepted)
    for position, one in enumerate(errors, start=1):
        yield str(position), str(one.num_labels), *_numbers(one)
    yield "mean", "", *_numbers(average(errors))


def _numbers(errors: Errors) -> tuple[str, str, str]:
    return f"{100 * errors.ece:.2f}", f"{errors.auc:.3f}", f"{errors.brier:.4f}"
