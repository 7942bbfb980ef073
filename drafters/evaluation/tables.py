"""Acceptance as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from profiles.acceptance import Acceptance


def length_table(modes: Mapping[str, Mapping[str, Acceptance]]) -> str:
    """Acceptance lengths: a row per name, a column per mode."""
    columns = modes.values()
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [
        (
            name,
            str(max(column[name].num_prompts for column in columns if name in column)),
            *(_length(column.get(name)) for column in columns),
        )
        for name in names
    ]
    return table(("", "prompts", *modes), rows)


def position_table(title: str, cells: Mapping[str, Acceptance]) -> str:
    """P(accepted | all earlier positions accepted): a row per name, a column per position."""
    block_size = max(len(cell.by_position) for cell in cells.values())
    rows = [
        (name, *("" if math.isnan(rate) else f"{rate:.3f}" for rate in cell.by_position))
        for name, cell in cells.items()
    ]
    return table((title, *(str(k) for k in range(1, block_size + 1))), rows)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _length(cell: Acceptance | None) -> str:
    """`2.31 ± 0.05`, without the error where there is none."""
    if cell is None or math.isnan(cell.length):
        return ""
    error = "" if math.isnan(cell.standard_error) else f" ± {cell.standard_error:.2f}"
    return f"{cell.length:.2f}{error}"
