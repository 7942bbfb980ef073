"""The causal schedule: best on convex costs, and blind to what it must not see."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from autoscale.causal import causal_lengths
from autoscale.step_cost import StepCostTable

GAMMA = 3
FLAT = StepCostTable((1, 64), (0.010, 0.0101))
STEEP = StepCostTable((1, 64), (0.001, 0.064))
JAGGED = StepCostTable((1, 2, 3, 4, 5, 6, 9), (1.0, 1.05, 1.9, 1.95, 2.0, 2.05, 2.1))


def lengths(confidences, table=FLAT, limits=None, beyond_s=0.0):
    confidences = np.array(confidences)
    limits = np.full(len(confidences), GAMMA) if limits is None else np.array(limits)
    return causal_lengths(confidences, limits, table.envelope(), beyond_s).tolist()


@pytest.mark.parametrize(
    ("confidences", "table", "expected"),
    [
        ([[0.9, 0.9, 0.9]], FLAT, [3]),
        ([[0.9, 0.9, 0.9]], STEEP, [0]),
        ([[0.9, 0.0, 0.9]], FLAT, [1]),
        ([[0.9, 0.9, 0.9], [0.0, 1.0, 1.0]], FLAT, [3, 0]),
    ],
)
def test_cheap_and_likely_tokens_are_taken(confidences, table, expected):
    assert lengths(confidences, table) == expected


def test_limits_hold():
    assert lengths([[1.0] * GAMMA] * 3, limits=[2, 0, 3]) == [2, 0, 3]


def test_requests_without_drafts_make_each_token_worth_less():
    confidences = np.array([[0.5, 0.5, 0.5]])
    args = (confidences, np.array([GAMMA]), StepCostTable((1, 64), (0.010, 0.073)).envelope(), 0.0)
    assert causal_lengths(*args, num_plain=0).tolist() == [2]
    assert causal_lengths(*args, num_plain=20).tolist() == [0]


def test_no_requests_need_no_schedule():
    assert causal_lengths(np.zeros((0, GAMMA)), np.zeros(0, int), FLAT, 0.0).tolist() == []


def test_it_is_the_best_schedule_on_a_convex_cost():
    rng = np.random.default_rng(0)
    table = JAGGED.envelope()
    for _ in range(200):
        confidences = rng.uniform(size=(2, GAMMA))
        got = causal_lengths(confidences, np.full(2, GAMMA), table, 0.3)
        survival = np.cumprod(confidences, axis=1)

        def rate(some, survival=survival):
            expected = 2 + sum(survival[r, :n].sum() for r, n in enumerate(some))
            return expected / (table.at(np.array(2 + sum(some))) + 0.3)

        best = max(rate(some) for some in product(range(GAMMA + 1), repeat=2))
        assert rate(got.tolist()) == pytest.approx(best)


def peeks(schedule) -> bool:
    """Whether admitting token j of a request ever depends on confidences behind j.

    Those were computed from token j itself, so a schedule that reads them conditions the
    token's verification on the token.
    """
    rng = np.random.default_rng(1)
    limits = np.full(2, GAMMA)
    for _ in range(300):
        confidences = rng.uniform(0.3, 1.0, size=(2, GAMMA))
        for request, position in product(range(2), range(GAMMA)):
            changed = confidences.copy()
            changed[request, position + 1 :] = rng.uniform(size=GAMMA - position - 1)
            admitted = [
                schedule(some, limits)[request] > position for some in (confidences, changed)
            ]
            if admitted[0] != admitted[1]:
                return True
    return False


def test_admission_never_depends_on_the_token_or_what_follows():
    assert not peeks(lambda c, limits: causal_lengths(c, limits, JAGGED.envelope(), 0.3))


def test_a_schedule_that_looks_ahead_is_caught():
    def best_anywhere(confidences, limits):
        survival = np.cumprod(confidences, axis=1)
        order = np.argsort(-survival, axis=None, kind="stable")
        expected = 2 + np.concatenate(([0.0], np.cumsum(survival.flat[order])))
        rate = expected / (JAGGED.at(2 + np.arange(len(expected))) + 0.3)
        return np.bincount(order[: rate.argmax()] // GAMMA, minlength=2)

    assert peeks(best_anywhere)


def test_one_cost_is_the_same_as_many():
    n = np.arange(1, 20)
    assert [JAGGED.at_one(i) for i in n.tolist()] == pytest.approx(JAGGED.at(n).tolist())


def test_the_envelope_is_convex_and_below():
    n = np.arange(1, 10)
    envelope = JAGGED.envelope()
    assert (envelope.at(n) <= JAGGED.at(n) + 1e-12).all()
    assert (np.diff(envelope.at(n), 2) >= -1e-12).all()
    assert envelope.at(n)[0] == JAGGED.at(n)[0]


@pytest.mark.parametrize(
    ("n_tokens", "step_cost_s"), [((1,), (1.0,)), ((2, 1), (1.0, 1.0)), ((1, 2), (0.0, 1.0))]
)
def test_an_unusable_table_is_refused(n_tokens, step_cost_s):
    with pytest.raises(ValueError, match="rising"):
        StepCostTable(n_tokens, step_cost_s)
