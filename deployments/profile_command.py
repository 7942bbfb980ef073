"""`dspark profile`: a step-cost profile of a Serve file's model, and what its fit says."""

from __future__ import annotations

import os
from pathlib import Path

from autoscale.step_cost_fit import fit_step_cost, with_fits
from deployments.errors import ConfigError
from deployments.placement import target_env
from deployments.serve_file import read_serve_file
from profiles.roofline import MACHINES, QWEN3_14B, modelled_profile
from profiles.step_cost import PHASES, StepCostProfile, save_step_cost


def profile(config: Path, output: Path, steps: int, rounds: int, modelled: str | None) -> str:
    """Write a profile to `output`; returns a table of what was fitted.

    Raises ConfigError where the Serve file has no model with a drafter.
    """
    if modelled is not None:
        found = modelled_profile(MACHINES[modelled], QWEN3_14B)
    else:
        found = _measured(config, steps, rounds)
    save_step_cost(output, with_fits(found))
    return f"{_summary(found)}\n{output}: {len(found.rows)} rows, {found.origin}"


def _measured(config: Path, steps: int, rounds: int) -> StepCostProfile:
    model = next((m for m in read_serve_file(config).settings.launched if m.drafter), None)
    if model is None:
        raise ConfigError(f"{config} has no model with a drafter to measure")
    # As in a replica; one that has several ranks starts their processes by itself.
    quiet = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
    os.environ.update(quiet | target_env(model))
    from deployments.engine.profile import Grid, measure_profile

    grid = Grid(steps=steps, rounds=rounds)
    return measure_profile(model, grid, lambda line: print(line, flush=True))


def _summary(found: StepCostProfile) -> str:
    """Markdown: per phase the fit's residuals and its costs."""
    lines = [
        "| phase | rows | residual rms, worst | ms per 1,000 context tokens of a request "
        "| ms at tokens |",
        "|---|---|---|---|---|",
    ]
    for phase in (phase for phase in PHASES if found.of(phase)):
        fit = fit_step_cost(found.of(phase))
        table = fit.table
        costs = zip(table.n_tokens, table.step_cost_s, strict=True)
        lines.append(
            f"| {phase} | {len(found.of(phase))} | {fit.rms:.1%}, {fit.worst:.1%} "
            f"| {1e6 * (table.context_token_s + table.pair_s):.3f} "
            f"| {', '.join(f'{n}: {1000 * cost_s:.2f}' for n, cost_s in costs)} |"
        )
    return "\n".join(lines)
