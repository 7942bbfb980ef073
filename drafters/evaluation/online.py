"""`dspark evaluate --url`: every benchmark and mode against a served model, and its report."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.pictures import can_draw
from drafters.evaluation.plan import Mode
from drafters.evaluation.served import Answer, Refused, ServedModel
from drafters.evaluation.splits import (
    FIRST_TURN,
    LATER_TURNS,
    BenchmarkCells,
    mode_name,
    with_macro_average,
)
from drafters.evaluation.tables import length_table, position_table, table
from profiles.acceptance import Acceptance, bucket_name, context_buckets
from profiles.served_acceptance import ServedCell, load_served, save_served, summed


@dataclass(frozen=True, slots=True)
class OnlinePlan:
    """What is asked. `policy` is verified by meanwhile, None is the model's own."""

    benchmarks: Mapping[str, Sequence[Conversation]]
    modes: tuple[Mode, ...]
    policy: Mapping[str, Any] | None


def evaluate_online(
    served: ServedModel,
    plan: OnlinePlan,
    output: Path,
    metadata: Mapping[str, str],
    progress: Callable[[str], None],
) -> str:
    """Evaluate, or go on with what `output` holds; returns the report.

    Every benchmark in every mode is a file of its own under `output`/cells: an interruption
    loses one of them. Writes `served.parquet`, `report.md` and, with matplotlib, two pictures.
    Raises ValueError or `httpx.HTTPError` saying what the service refused.
    """
    cells: list[ServedCell] = []
    with served.verifying_by(plan.policy):
        for mode in plan.modes:
            for name, conversations in plan.benchmarks.items():
                file_name = f"{name} at {mode.temperature:g}, thinking {mode.thinking}.parquet"
                path = output / "cells" / file_name
                if path.exists():
                    cells += load_served(path, metadata)
                    continue
                found = list(_hold(served, mode, name, conversations))
                save_served(path, found, metadata)
                cells += found
                length = summed(found).length
                progress(f"{name}, {mode_name(mode.temperature, mode.thinking)}: {length:.2f}")
    save_served(output / "served.parquet", cells, metadata)
    report = format_served_report(cells, metadata)
    (output / "report.md").write_text(report + "\n", encoding="utf-8")
    if can_draw(progress):
        from drafters.evaluation.plots import save_acceptance_plots

        for path in save_acceptance_plots(_benchmark_cells(cells), output):
            progress(f"wrote {path}")
    return report


def _hold(
    served: ServedModel, mode: Mode, name: str, conversations: Sequence[Conversation]
) -> list[ServedCell]:
    """One cell per turn and bucket of contexts, of the conversations that fit into the model."""
    cells = []
    going = [(conversation, list[str]()) for conversation in conversations]
    for turn in itertools.count(1):
        lengths = served.context_tokens(mode, *_columns(going))
        buckets = context_buckets(np.array(lengths)).tolist()
        lasting, refusals = [], list[Refused]()
        for bucket in sorted(set(buckets)):
            asked = [one for one, of in zip(going, buckets, strict=True) if of == bucket]
            counts, replies = served.hold(mode, *_columns(asked))
            fitted = [
                (conversation, [*texts, reply.text])
                for (conversation, texts), reply in zip(asked, replies, strict=True)
                if isinstance(reply, Answer)
            ]
            refusals += [reply for reply in replies if isinstance(reply, Refused)]
            place = (mode.temperature, mode.thinking, turn, bucket)
            cells.append(ServedCell(name, *place, len(fitted), *counts))
            lasting += [one for one in fitted if turn < len(one[0].turns)]
        if turn == 1 and len(refusals) == len(going):
            raise ValueError(f"{name}: the service refuses every prompt: {refusals[0].reason}")
        if not lasting:
            break
        going = lasting
    return cells


def _columns(
    going: Sequence[tuple[Conversation, list[str]]],
) -> tuple[list[Conversation], list[list[str]]]:
    """Conversations, and their answers so far."""
    return [conversation for conversation, _ in going], [texts for _, texts in going]


def format_served_report(cells: Sequence[ServedCell], metadata: Mapping[str, str]) -> str:
    """Acceptance by benchmark, position, context and turn."""
    benchmarks = _benchmark_cells(cells)
    contexts = {
        mode: _grouped(
            sorted(some, key=lambda cell: cell.context_bucket),
            lambda cell: bucket_name(cell.context_bucket),
        )
        for mode, some in _by_mode(cells).items()
    }
    turns = {
        mode: _grouped(some, lambda cell: FIRST_TURN if cell.turn == 1 else LATER_TURNS)
        for mode, some in _by_mode(cells).items()
    }
    parts = [
        f"# {metadata['model_id']} as served",
        "Acceptance length: tokens committed per target step that verified a draft, bonus "
        "token included, by the service's own count.",
        table(("", ""), metadata.items()),
        "## Acceptance length by benchmark",
        length_table(benchmarks),
        "## P(accepted | all earlier positions accepted), by position",
        *(position_table(mode, of) for mode, of in benchmarks.items()),
        "## Acceptance length by context, in tokens as an answer begins",
        length_table(contexts),
        "## Acceptance length by turn",
        length_table(turns),
    ]
    return "\n\n".join(part.rstrip() for part in parts)


def _by_mode(cells: Sequence[ServedCell]) -> dict[str, list[ServedCell]]:
    modes: dict[str, list[ServedCell]] = {}
    for cell in cells:
        mode = mode_name(cell.sampling_temperature, cell.thinking)
        modes.setdefault(mode, []).append(cell)
    return modes


def _benchmark_cells(cells: Sequence[ServedCell]) -> BenchmarkCells:
    return {
        mode: with_macro_average(_grouped(some, lambda cell: cell.benchmark))
        for mode, some in _by_mode(cells).items()
    }


def _grouped(
    cells: Sequence[ServedCell], name: Callable[[ServedCell], str]
) -> dict[str, Acceptance]:
    groups: dict[str, list[ServedCell]] = {}
    for cell in cells:
        groups.setdefault(name(cell), []).append(cell)
    return {name: summed(some) for name, some in groups.items()}
