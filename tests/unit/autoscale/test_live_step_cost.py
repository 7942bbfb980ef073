"""A step-cost table that is relearned from every step."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.live_step_cost import LiveStepCost
from autoscale.step_cost import StepCostTable

# 8 ms for a step and 0.25 ms for each of its tokens.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TABLE = StepCostTable(SIZES, tuple(0.008 + 0.00025 * n for n in SIZES))


def learned(true_s, steps, sizes=SIZES, noise=0.0):
    """After `steps` of `sizes` in turns that take `true_s(n)`."""
    rng = np.random.default_rng(0)
    cost = LiveStepCost(TABLE)
    for i in range(steps):
        n = sizes[i % len(sizes)]
        cost.record(n, true_s(n) * rng.lognormal(0, noise))
    return cost


def test_nothing_seen_it_is_the_profile():
    cost = LiveStepCost(TABLE)
    assert [cost.at(n) for n in (1, 3, 256, 512)] == pytest.approx(
        TABLE.at(np.array([1, 3, 256, 512])).tolist()
    )


@pytest.mark.parametrize(
    "true_s",
    [
        lambda n: 0.5 * TABLE.at_one(n),
        lambda n: TABLE.at_one(n) + 0.004,
        lambda n: 2 * TABLE.at_one(n) + 0.003,
        lambda n: 0.010 + 0.0004 * n,
    ],
    ids=["faster", "overhead", "slower with overhead", "another slope"],
)
def test_it_finds_what_steps_take(true_s):
    cost = learned(true_s, 900, noise=0.03)
    for n in (1, 6, 32, 200):
        assert cost.at(n) == pytest.approx(true_s(n), rel=0.04)


def test_a_few_steps_are_enough_where_they_agree():
    cost = learned(lambda n: 0.020, 5, sizes=(4,))
    assert cost.at(4) == pytest.approx(0.020, rel=0.02)


def test_sizes_that_are_no_longer_visited_follow_the_machine():
    """All sizes at first; then it slows down to half speed and only small steps come."""
    cost = learned(TABLE.at_one, 900, noise=0.03)
    rng = np.random.default_rng(1)
    for i in range(1500):
        n = (1, 2, 4, 8)[i % 4]
        cost.record(n, 2 * TABLE.at_one(n) * rng.lognormal(0, 0.03))
    assert cost.at(4) == pytest.approx(2 * TABLE.at_one(4), rel=0.03)
    assert 1.2 * TABLE.at_one(256) < cost.at(256) < 2.2 * TABLE.at_one(256)


def test_outliers_do_not_move_it():
    rng = np.random.default_rng(2)
    cost = LiveStepCost(TABLE)
    for i in range(900):
        n = SIZES[i % len(SIZES)]
        stalled = 20.0 if rng.random() < 0.03 else 1.0
        cost.record(n, TABLE.at_one(n) * rng.lognormal(0, 0.03) * stalled)
    for n in (1, 32, 256):
        assert cost.at(n) == pytest.approx(TABLE.at_one(n), rel=0.08)


def test_context_is_told_from_tokens():
    rng = np.random.default_rng(3)
    cost = LiveStepCost(TABLE)
    for _ in range(1500):
        n = int(rng.choice((1, 4, 16, 64)))
        context = int(rng.integers(0, 30_000))
        cost.record(n, TABLE.at_one(n) + 2e-7 * context, 1, context)
    assert cost.at(16, 1, 20_000) - cost.at(16, 1, 0) == pytest.approx(0.004, rel=0.1)
    assert cost.at(16, 1, 0) == pytest.approx(TABLE.at_one(16), rel=0.04)
    assert cost.learned().context_token_s == pytest.approx(2e-7, rel=0.1)


def mixed(true_s, prompt_token_s, steps):
    """After `steps` that all read prompts, beside 8 tokens or 40, on a machine of `true_s(n)`."""
    rng = np.random.default_rng(4)
    cost = LiveStepCost(TABLE)
    for i in range(steps):
        n, prompt = (8, 40)[i % 2], int(rng.integers(1, 2048))
        took_s = true_s(n) + prompt_token_s * prompt
        cost.record(n + prompt, took_s * rng.lognormal(0, 0.03), 1, 0.0, prompt)
    return cost


@pytest.mark.parametrize("prompt_token_s", [0.0001, 0.00025, 0.0005])
@pytest.mark.parametrize("slower", [1.0, 2.0])
def test_steps_that_read_prompts_teach_what_their_decoding_takes(slower, prompt_token_s):
    cost = mixed(lambda n: slower * TABLE.at_one(n), slower * prompt_token_s, 1500)
    assert cost.at(8) == pytest.approx(slower * TABLE.at_one(8), rel=0.1)
    assert cost.at(40) == pytest.approx(slower * TABLE.at_one(40), rel=0.1)


def test_its_table_rises_and_holds_what_it_learned():
    cost = learned(lambda n: 0.5 * TABLE.at_one(n), 900, noise=0.05)
    table = cost.learned()
    assert (np.diff(table.step_cost_s) >= 0).all()
    assert table.at_one(32) == pytest.approx(0.5 * TABLE.at_one(32), rel=0.04)


def test_nonsense_leaves_it_usable():
    cost = LiveStepCost(TABLE)
    for step_s in (0.0, 1e6, 1e-9) * 20:
        cost.record(4, step_s)
    assert np.isfinite([cost.at(n) for n in SIZES]).all()
    assert min(cost.at(n) for n in SIZES) > 0


def test_after_a_pause_a_machine_that_changed_is_believed_at_once():
    cost = learned(lambda n: 4 * TABLE.at_one(n), 900, noise=0.03)
    cost.doubt()
    for _ in range(2):
        cost.record(32, TABLE.at_one(32))
    for n in (8, 32, 128):
        assert cost.at(n) == pytest.approx(TABLE.at_one(n), rel=0.1)


def test_after_a_pause_a_machine_that_did_not_change_is_known_as_well_as_before():
    paused, other = (learned(lambda n: 4 * TABLE.at_one(n), 900, noise=0.03) for _ in range(2))
    paused.doubt()
    for cost in (paused, other):
        cost.record(32, 4.1 * TABLE.at_one(32))
    assert [paused.at(n) for n in SIZES] == [other.at(n) for n in SIZES]


def test_it_says_by_how_much_steps_miss_what_was_believed_of_them():
    rng = np.random.default_rng(0)
    steady = learned(TABLE.at_one, 900, noise=0.05)
    wild = LiveStepCost(TABLE)
    for _ in range(900):
        wild.record(8, TABLE.at_one(8) * (1.0 if rng.random() < 0.5 else 4.0))
    stalled = learned(TABLE.at_one, 900)
    stalled.record(8, 100.0)
    errors = [cost.snapshot()["relative_error"] for cost in (steady, wild, stalled)]
    assert errors[0] == pytest.approx(0.04, abs=0.01)
    assert errors[1] > 0.5
    assert errors[2] < 0.1
