"""The monotone fit through measured steps."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest

from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import fit_step_cost, load_costs, nonnegative_least_squares
from profiles.provenance import ProfileError
from profiles.step_cost import (
    DRAFT,
    MEASURED,
    VERIFY,
    EngineProvenance,
    StepCostProfile,
    StepCostRow,
    save_step_cost,
)

TRUE = StepCostTable(
    (1, 8, 64, 256), (0.008, 0.009, 0.02, 0.07), request_s=1e-4, context_token_s=2e-8, pair_s=1e-7
)


def true_s(n_tokens, num_requests, context_tokens):
    beside_s = TRUE.beside_s(n_tokens, num_requests, num_requests * context_tokens)
    return TRUE.at_one(n_tokens) + beside_s


def grid(noise=0.0, outliers=0.0):
    rng = np.random.default_rng(0)
    rows = []
    for num_requests in (1, 2, 4, 8, 16, 32):
        for k in (0, 1, 3, 7):
            for context in (32, 256, 1024):
                n = num_requests * (1 + k)
                cost_s = true_s(n, num_requests, context) * rng.lognormal(0, noise)
                cost_s *= 4 if rng.random() < outliers else 1
                rows.append(StepCostRow(VERIFY, n, num_requests, context, cost_s, 0.0, 10))
    return rows


def test_exact_measurements_are_met():
    fit = fit_step_cost(grid())
    assert fit.worst < 1e-6
    assert fit.table.request_s == pytest.approx(TRUE.request_s)
    assert fit.table.context_token_s == pytest.approx(TRUE.context_token_s)
    assert fit.table.pair_s == pytest.approx(TRUE.pair_s)


def test_noise_and_outliers_are_fitted_through():
    fit = fit_step_cost(grid(noise=0.03, outliers=0.05))
    for n in (1, 16, 128, 256):
        beside_s = fit.table.beside_s(n, 1, 512)
        assert fit.table.at_one(n) + beside_s == pytest.approx(true_s(n, 1, 512), rel=0.05)


def test_costs_that_fall_with_more_tokens_are_levelled():
    seconds = {1: 0.010, 2: 0.008, 4: 0.012, 8: 0.011}
    rows = [StepCostRow(VERIFY, n, 1, 0, s, 0.0, 10) for n, s in seconds.items()]
    costs = fit_step_cost(rows).table.step_cost_s
    assert (np.diff(costs) >= 0).all()
    assert costs[0] == pytest.approx(costs[1])


def test_one_size_is_no_table():
    with pytest.raises(ValueError, match="two or more"):
        fit_step_cost([StepCostRow(VERIFY, 4, 1, 0, 0.01, 0.0, 1)])


def saved(path, rows):
    here = EngineProvenance("cpu", "m", "r", "float32", "tp1", "vllm", "0", "1 thread")
    save_step_cost(path, StepCostProfile(here, MEASURED, date(2025, 1, 1), tuple(rows)))
    return here


def test_a_file_becomes_what_a_policy_starts_from(tmp_path):
    path = tmp_path / "costs.parquet"
    here = saved(path, [*grid(), StepCostRow(DRAFT, 14, 2, 0, 0.003, 0.0, 10)])
    table, drafts = load_costs(path, here)
    assert table.at_one(64) == pytest.approx(TRUE.at_one(64))
    assert drafts.draft_s == ((2, 0.003),)


def test_a_file_without_verifying_steps_is_refused_by_its_name(tmp_path):
    path = tmp_path / "costs.parquet"
    here = saved(path, [StepCostRow(DRAFT, 7, 1, 0, 0.002, 0.0, 10)])
    with pytest.raises(ProfileError, match=r"costs\.parquet.*two or more.*dspark profile"):
        load_costs(path, here)


def test_nonnegative_least_squares_satisfies_its_optimality_conditions():
    rng = np.random.default_rng(1)
    for _ in range(50):
        a, b = rng.normal(size=(12, 5)), rng.normal(size=12)
        x = nonnegative_least_squares(a, b)
        gradient = a.T @ (b - a @ x)
        assert (x >= 0).all()
        assert gradient[x > 0] == pytest.approx(0, abs=1e-8)
        assert (gradient[x == 0] <= 1e-8).all()


def test_costs_beside_tokens_make_one_table():
    under = TRUE.under(4, 2000)
    assert under.at_one(64) == pytest.approx(0.02 + 4e-4 + 2e-8 * 2000 + 1e-7 * 64 * 500)
    assert under.pair_s == 0
