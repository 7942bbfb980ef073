"""`dspark matrix`: which placements of which models work where, and which we have run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from cluster.versions import TESTED, VLLM
from deployments import matrix_report
from deployments.catalog import MODELS
from deployments.hardware import MACHINES
from deployments.matrix import Row, demo_row, judge
from deployments.matrix_report import Engine
from deployments.schema import Placement


def matrix(model: str | None, generation: str | None, *, as_json: bool) -> str:
    """The rows of one model or all, on one generation of GPUs or all, as text.

    Raises ValueError when there is no such row.
    """
    engine = installed_engine()
    every = all_rows(lacking_placements(engine))
    rows = [
        row
        for row in every
        if model in (None, row.model) and generation in (None, row.machine.generation)
    ]
    if not rows:
        names = ", ".join(dict.fromkeys(row.model for row in every))
        raise ValueError(f"no rows for model {model or 'any'}; there are {names}")
    return (matrix_report.as_json if as_json else matrix_report.as_markdown)(engine, rows)


def all_rows(lacking: frozenset[Placement]) -> list[Row]:
    """The demo on processors, then every model on every machine."""
    demo = [demo_row(machine, lacking) for machine in MACHINES if not machine.has_gpu]
    return demo + [judge(model, machine, lacking) for model in MODELS for machine in MACHINES]


def installed_engine() -> Engine:
    """What is installed here, probed. Imports vLLM, for seconds."""
    for name in VLLM:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        from deployments.engine.compat import probe_engine

        return Engine(name, found, found.split("+")[0] == TESTED[VLLM], probe_engine())
    return Engine("vLLM", "not installed", tested=False, lacking={})


def lacking_placements(engine: Engine) -> frozenset[Placement]:
    """The placements that the installed engine cannot serve, whatever the machine."""
    from deployments.engine.compat import NEEDED

    return frozenset(
        placement
        for placement in get_args(Placement)
        if any(engine.lacking.get(name) for name in NEEDED[placement])
    )
