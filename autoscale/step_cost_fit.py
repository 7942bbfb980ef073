"""A monotone step-cost table through measured steps, and how far it is off."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.draft_experience import DraftExperience
from autoscale.step_cost import StepCostTable
from profiles.provenance import ProfileError
from profiles.step_cost import (
    DRAFT,
    VERIFY,
    EngineProvenance,
    StepCostProfile,
    StepCostRow,
    load_step_cost,
)

_REWEIGHTINGS = 10
_OUTLIER = 3.0  # robust standard deviations
_LEAST_COST_S = 1e-9
_LEAST_SCATTER = 1e-3  # of the cost: measurements that agree better are not trusted more


class StepCostFit(NamedTuple):
    """`residuals` [N] are relative, fitted over measured less 1, in the order of the rows."""

    table: StepCostTable
    residuals: NDArray[np.float64]

    @property
    def rms(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))

    @property
    def worst(self) -> float:
        return float(np.abs(self.residuals).max())


def fit_step_cost(rows: Sequence[StepCostRow]) -> StepCostFit:
    """Costs that rise with tokens, requests and context, by least relative squares.

    The table has an entry at every number of tokens that occurs; its increments and what
    requests and context add are found together, none of them negative (Lawson and Hanson,
    1974). Rows far off, as of steps that something else disturbed, lose their weight
    (Huber, 1964). Raises ValueError where rows have fewer than two numbers of tokens.
    """
    knots = sorted({row.n_tokens for row in rows})
    if len(knots) < 2:
        raise ValueError(f"step costs at {knots} tokens alone: two or more numbers are needed")
    measured_s = np.array([row.step_cost_s for row in rows])
    relative = _design(rows, np.array(knots, dtype=np.float64)) / measured_s[:, None]
    weights = np.sqrt(np.array([row.num_steps for row in rows], dtype=np.float64))
    trusted = np.ones(len(rows))
    for _ in range(_REWEIGHTINGS):
        scaled = weights * trusted
        parts = nonnegative_least_squares(relative * scaled[:, None], scaled)
        residuals = relative @ parts - 1.0
        scatter = max(1.4826 * float(np.median(np.abs(residuals))), _LEAST_SCATTER)
        trusted = np.sqrt(np.minimum(1.0, _OUTLIER * scatter / (np.abs(residuals) + 1e-12)))
    costs_s = np.maximum(np.cumsum(parts[: len(knots)]), _LEAST_COST_S)
    request_s, context_token_s, pair_s = parts[len(knots) :].tolist()
    table = StepCostTable(tuple(knots), tuple(costs_s.tolist()), request_s, context_token_s, pair_s)
    return StepCostFit(table, residuals)


def costs_of(profile: StepCostProfile) -> tuple[StepCostTable, dict[int, float]]:
    """Seconds of a verifying step, and of drafting by number of requests as far as known.

    Raises ValueError where the profile has too few verifying steps.
    """
    drafts: dict[int, list[float]] = {}
    for row in profile.of(DRAFT):
        drafts.setdefault(row.n_requests, []).append(row.step_cost_s)
    table = fit_step_cost(profile.of(VERIFY)).table
    return table, {n: float(np.median(seconds)) for n, seconds in drafts.items()}


def load_costs(
    path: Path, here: EngineProvenance, overridden: Collection[str] = ()
) -> tuple[StepCostTable, DraftExperience]:
    """`costs_of` the profile in a file, for the engine `here`; see `load_step_cost`.

    Raises ProfileError, naming the file, also where its rows make no table.
    """
    profile = load_step_cost(path, here, overridden)
    try:
        table, draft_s = costs_of(profile)
        return table, DraftExperience(tuple(sorted(draft_s.items())))
    except ValueError as error:
        raise ProfileError(f"{path}: {error}; measure it again with dspark profile") from None


def with_fits(profile: StepCostProfile) -> StepCostProfile:
    """The profile with what the fit of each phase gives for every row."""
    rows: list[StepCostRow] = []
    for phase in dict.fromkeys(row.phase for row in profile.rows):
        of_phase = profile.of(phase)
        fitted = (1 + fit_step_cost(of_phase).residuals).tolist()
        rows += [
            replace(row, fitted_cost_s=row.step_cost_s * ratio)
            for row, ratio in zip(of_phase, fitted, strict=True)
        ]
    return replace(profile, rows=tuple(rows))


def _design(rows: Sequence[StepCostRow], knots: NDArray[np.float64]) -> NDArray[np.float64]:
    """[N, knots + 3]: a row's cost is linear in the table's increments and the three slopes.

    Where every row has as many requests, what they add cannot be told from the table.
    """
    n_tokens = np.array([row.n_tokens for row in rows], dtype=np.float64)
    requests = np.array([row.n_requests for row in rows], dtype=np.float64)
    context = np.array([row.context_tokens for row in rows])
    increments = np.ones((len(rows), len(knots)))
    increments[:, 1:] = np.clip((n_tokens[:, None] - knots[:-1]) / np.diff(knots), 0.0, 1.0)
    told_apart = requests if len(set(requests.tolist())) > 1 else np.zeros(len(rows))
    return np.column_stack([increments, told_apart, requests * context, n_tokens * context])


def nonnegative_least_squares(
    matrix: NDArray[np.float64], wanted: NDArray[np.float64]
) -> NDArray[np.float64]:
    """x >= 0 [M] that minimises |matrix @ x - wanted|, by Lawson and Hanson's active sets."""
    scale = np.linalg.norm(matrix, axis=0)
    scale[scale == 0.0] = 1.0
    a = matrix / scale
    x = np.zeros(a.shape[1])
    free = np.zeros(a.shape[1], dtype=bool)
    for _ in range(3 * a.shape[1]):
        gradient = a.T @ (wanted - a @ x)
        gradient[free] = -np.inf
        if gradient.max(initial=-np.inf) <= 1e-10 * max(1.0, float(np.abs(a.T @ wanted).max())):
            break
        free[int(gradient.argmax())] = True
        x = _solve_free(a, wanted, x, free)
    unscaled: NDArray[np.float64] = x / scale
    return unscaled


def _solve_free(
    a: NDArray[np.float64],
    wanted: NDArray[np.float64],
    x: NDArray[np.float64],
    free: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Least squares over the free columns; those that would turn negative leave, in place."""
    while True:
        solved = np.zeros_like(x)
        solved[free] = np.linalg.lstsq(a[:, free], wanted, rcond=None)[0]
        negative = free & (solved <= 0)
        if not negative.any():
            return solved
        steps = x[negative] / np.maximum(x[negative] - solved[negative], 1e-300)
        x = x + float(steps.min()) * (solved - x)
        free &= x > 1e-12
        x[~free] = 0.0
