"""Verify schedules: best on convex costs, and blind to what they must not see."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoscale.causal_policy import Causal, Lookahead
from autoscale.policies import StepTerms, Threshold
from autoscale.schedule import (
    admit_most_worth,
    best_budget,
    causal_lengths,
    expected_by_budget,
    threshold_lengths,
    token_worth,
)
from autoscale.step_cost import CostCurve, StepCostTable, verify_cost_s

GAMMA = 3
FLAT = StepCostTable((1, 64), (0.010, 0.0101))
STEEP = StepCostTable((1, 64), (0.001, 0.064))
JAGGED = StepCostTable((1, 2, 3, 4, 5, 6, 9), (1.0, 1.05, 1.9, 1.95, 2.0, 2.05, 2.1))


def cost_of(table, num_requests, num_candidates, **prefill):
    return verify_cost_s(CostCurve(table), num_requests, num_candidates, **prefill)


def lengths(confidences, table=FLAT, limits=None, num_plain=0):
    confidences = np.array(confidences)
    limits = np.full(len(confidences), GAMMA) if limits is None else np.array(limits)
    worth = token_worth(confidences, limits)
    num_requests = len(confidences) + num_plain
    cost_s = cost_of(table.envelope(), num_requests, worth.size)
    return causal_lengths(worth, num_requests, cost_s).tolist()


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
    table = StepCostTable((1, 64), (0.010, 0.073))
    assert lengths([[0.5, 0.5, 0.5]], table) == [2]
    assert lengths([[0.5, 0.5, 0.5]], table, num_plain=20) == [0]


def test_no_requests_need_no_schedule():
    assert lengths(np.zeros((0, GAMMA))) == []


def test_ties_go_by_request_then_position():
    worth = np.array([[0.5, 0.5, 0.1], [0.5, 0.5, 0.5], [0.9, 0.5, 0.5]])
    assert [admit_most_worth(worth, k).tolist() for k in range(10)] == [
        [0, 0, 0],
        [0, 0, 1],
        [1, 0, 1],
        [2, 0, 1],
        [2, 1, 1],
        [2, 2, 1],
        [2, 3, 1],
        [2, 3, 2],
        [2, 3, 3],
        [3, 3, 3],
    ]


def test_a_token_that_cannot_survive_is_not_admitted_whatever_the_budget():
    worth = np.array([[0.5, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert admit_most_worth(worth, 4).tolist() == [1, 0]


def test_a_heavier_class_goes_first():
    confidences = np.full((2, GAMMA), 0.6)
    table = StepCostTable((1, 64), (0.010, 0.073))
    policy = Causal(table)
    limits = np.full(2, GAMMA)
    assert policy.admit(confidences, limits, 2).tolist() == [2, 2]
    heavy = StepTerms(weights=np.array([1.0, 4.0]), plain_weight=0.0)
    assert policy.admit(confidences, limits, 2, heavy).tolist() == [0, 3]


def test_threshold_goes_by_survival():
    confidences = np.array([[0.9, 0.9, 0.1], [0.8, 0.9, 0.9], [0.0, 1.0, 1.0]])
    assert Threshold(0.7).admit(confidences, np.array([3, 3, 3]), 3).tolist() == [2, 2, 0]
    assert Threshold(0.7).admit(confidences, np.array([1, 3, 3]), 3).tolist() == [1, 2, 0]


class TestPrefillInTheStep:
    # Memory-bound up to 64 tokens, then each token takes its time.
    roofline = StepCostTable((1, 64, 128), (0.010, 0.010, 0.020))

    def test_draft_tokens_are_free_only_below_the_knee(self):
        assert cost_of(self.roofline, 8, 2) == pytest.approx([0.010] * 3)
        assert cost_of(self.roofline, 8, 2, prefill_tokens=1000) == pytest.approx(
            np.array([0.010, 0.010 + 1 / 6400, 0.010 + 2 / 6400])
        )

    def test_what_prompt_tokens_add_is_taken_off(self):
        c = 1 / 6400
        shared = cost_of(self.roofline, 56, 16, prefill_tokens=1000)
        assert shared == pytest.approx(0.010 + c * np.arange(17))


@pytest.mark.parametrize("prefill_tokens", [0, 5])
def test_it_is_the_best_schedule_on_a_convex_cost(prefill_tokens):
    """Held against every schedule of two requests."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        confidences = rng.uniform(size=(2, GAMMA))
        weights = rng.uniform(0.2, 3.0, size=2)
        worth = token_worth(confidences, np.full(2, GAMMA), weights)
        weight = weights.sum()
        cost_s = 0.3 + cost_of(JAGGED.envelope(), 2, worth.size, prefill_tokens=prefill_tokens)

        def rate(some, worth=worth, weight=weight, cost_s=cost_s):
            expected = weight + sum(worth[r, :n].sum() for r, n in enumerate(some))
            return expected / cost_s[sum(some)]

        best = max(rate(some) for some in product(range(GAMMA + 1), repeat=2))
        assert rate(causal_lengths(worth, weight, cost_s).tolist()) == pytest.approx(best)


# One request, two draft tokens, a step of two tokens padded to three. Token 1 is A or B; the
# second is sure to be accepted after A and never after B. Made in the way of the DSpark
# paper's appendix A; the numbers are ours.
PADDED = StepCostTable((1, 2, 3), (1.0, 1.5, 1.55))
P_TARGET = {"A": 0.2, "B": 0.8}
Q_DRAFTER = {"A": 0.8, "B": 0.2}
ACCEPTED = sum(min(P_TARGET[x], Q_DRAFTER[x]) for x in "AB")


def first_token_output(schedule) -> dict[str, float]:
    """The distribution of the first token that comes out, by enumeration.

    `schedule` maps confidences [1, 2] to lengths [1]. Where it admits the draft's first token,
    that is verified against q; otherwise the target draws it.
    """
    rest = {x: max(P_TARGET[x] - Q_DRAFTER[x], 0.0) for x in "AB"}
    out = dict.fromkeys("AB", 0.0)
    for drafted, q in Q_DRAFTER.items():
        second = 1.0 if drafted == "A" else 0.0
        if schedule(np.array([[ACCEPTED, second]]))[0] == 0:
            for x in "AB":
                out[x] += q * P_TARGET[x]
            continue
        accepted = min(1.0, P_TARGET[drafted] / q)
        out[drafted] += q * accepted
        for x in "AB":
            out[x] += q * (1 - accepted) * rest[x] / sum(rest.values())
    return out


def unguarded(table):
    """A search for the best budget that reads the drafts it decides about."""

    def schedule(confidences):
        rows = len(confidences)
        worth = token_worth(confidences, np.full(rows, confidences.shape[1]))
        cost_s = cost_of(table, rows, worth.size)
        return admit_most_worth(worth, best_budget(expected_by_budget(worth, rows), cost_s))

    return schedule


def causal(table):
    def schedule(confidences):
        rows = len(confidences)
        worth = token_worth(confidences, np.full(rows, confidences.shape[1]))
        return causal_lengths(worth, rows, cost_of(table, rows, worth.size))

    return schedule


@pytest.mark.parametrize("table", [PADDED, PADDED.envelope()])
def test_causal_keeps_the_targets_distribution_in_the_counterexample(table):
    assert first_token_output(causal(table)) == pytest.approx(P_TARGET)


def test_an_unguarded_search_changes_the_distribution_in_the_counterexample():
    out = first_token_output(unguarded(PADDED))
    assert out == pytest.approx({"A": 0.24, "B": 0.76})


ROWS = 3
probs = st.floats(0, 1, width=32)
drafts = arrays(np.float64, (ROWS, GAMMA), elements=probs)


@st.composite
def tables(draw):
    steps = draw(st.lists(st.integers(1, 3), min_size=2, max_size=6))
    rises = draw(st.lists(st.floats(0, 1), min_size=len(steps), max_size=len(steps)))
    return StepCostTable(tuple(np.cumsum(steps).tolist()), tuple((0.5 + np.cumsum(rises)).tolist()))


def lookahead_after(before):
    def make(table):
        policy = Lookahead(table)
        policy.admit(before, np.full(ROWS, GAMMA), ROWS)
        return policy

    return make


SCHEDULES = {
    "causal": Causal,
    "lookahead": lookahead_after(np.full((ROWS, GAMMA), 0.7)),
    "threshold": lambda _: Threshold(0.3),
}


@pytest.mark.parametrize("name", SCHEDULES)
@settings(max_examples=60, deadline=None)
@given(
    confidences=drafts,
    later=drafts,
    table=tables(),
    weights=arrays(np.float64, ROWS, elements=st.floats(0.1, 4)),
    prefill_tokens=st.integers(0, 8),
    row=st.integers(0, ROWS - 1),
    position=st.integers(0, GAMMA - 1),
)
def test_admission_never_depends_on_the_token_or_what_follows(
    name, confidences, later, table, weights, prefill_tokens, row, position
):
    """Confidences behind a position are computed from its token: they may be anything."""
    changed = confidences.copy()
    changed[row, position + 1 :] = later[row, position + 1 :]
    terms = StepTerms(weights, 0.0, prefill_tokens)
    limits = np.full(ROWS, GAMMA)
    admitted = [
        SCHEDULES[name](table).admit(some, limits, ROWS, terms)[row] > position
        for some in (confidences, changed)
    ]
    assert admitted[0] == admitted[1]


def peeks(schedule) -> bool:
    """Whether admitting a token ever depends on confidences behind it, over random drafts."""
    rng = np.random.default_rng(1)
    limits = np.full(2, GAMMA)
    for _ in range(200):
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


def fresh(make):
    """A schedule that is made anew for every step, as it may remember the one before."""
    return lambda confidences, limits: make(JAGGED).admit(confidences, limits, len(confidences))


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_policy_peeks(name):
    assert not peeks(fresh(SCHEDULES[name]))


def test_an_unguarded_search_is_caught_peeking():
    assert peeks(lambda confidences, limits: unguarded(JAGGED)(confidences))


def test_lookahead_keeps_the_targets_distribution_in_the_counterexample():
    def schedule(confidences):
        policy = Lookahead(PADDED)
        policy.admit(np.array([[0.4, 0.99]]), np.array([2]), 1)
        return policy.admit(confidences, np.array([2]), 1)

    assert first_token_output(schedule) == pytest.approx(P_TARGET)


def test_the_first_lookahead_step_verifies_nothing_as_nothing_is_known():
    policy = Lookahead(FLAT)
    confidences = np.full((2, GAMMA), 0.9)
    limits = np.full(2, GAMMA)
    assert policy.admit(confidences, limits, 2).tolist() == [0, 0]
    assert policy.admit(confidences, limits, 2).tolist() == [3, 3]


def test_lookahead_crosses_a_dent_that_causal_on_real_costs_stops_at():
    confidences = np.array([[0.4, 0.99]])
    assert causal(PADDED)(confidences).tolist() == [0]
    policy = Lookahead(PADDED)
    policy.admit(confidences, np.array([2]), 1)
    assert policy.admit(confidences, np.array([2]), 1).tolist() == [2]


@settings(max_examples=60, deadline=None)
@given(confidences=drafts, budget=st.integers(0, ROWS * GAMMA))
def test_what_is_admitted_is_what_a_stable_sort_would_admit(confidences, budget):
    worth = token_worth(confidences, np.array([3, 1, 2]))
    order = np.argsort(-worth, axis=None, kind="stable")[:budget]
    order = order[worth.flat[order] > 0]
    expected = np.bincount(order // GAMMA, minlength=ROWS)
    assert admit_most_worth(worth, budget).tolist() == expected.tolist()


def test_threshold_lengths_of_no_requests():
    assert threshold_lengths(np.zeros((0, GAMMA)), np.zeros(0, int), 0.5).tolist() == []


def test_one_cost_is_the_same_as_many():
    n = np.arange(1, 20)
    assert [JAGGED.at_one(i) for i in n.tolist()] == pytest.approx(JAGGED.at(n).tolist())


def test_a_curve_is_its_table_however_far_it_goes():
    curve = CostCurve(JAGGED)
    for first, last in ((1, 3), (2, 40), (5, 5)):
        assert curve.from_to(first, last) == pytest.approx(JAGGED.at(np.arange(first, last + 1)))


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
