from __future__ import annotations

import math

import pytest

from autoscale.prefill_budget import PrefillBounds, PrefillBudget, tightest_s

BOUNDS = PrefillBounds(32, 1024)


def seen(plain_s: float = 0.02, per_token_s: float = 0.0005) -> PrefillBudget:
    budget = PrefillBudget(BOUNDS)
    for i in range(200):
        prefill_tokens = 0 if i % 2 == 0 else 100
        budget.record(plain_s + per_token_s * prefill_tokens, prefill_tokens)
    return budget


def test_at_first_and_without_a_promise_it_is_the_most():
    assert PrefillBudget(BOUNDS).tokens(0.05) == 1024
    assert seen().tokens(math.inf) == 1024


def test_it_is_what_the_promise_leaves_room_for():
    # Of 90 ms, 20 are decoding; 70 ms at half a millisecond each.
    assert seen().tokens(0.1) in (139, 140)


def test_it_stays_within_its_bounds():
    assert seen().tokens(0.01) == 32
    assert seen().tokens(100.0) == 1024


def test_prompts_that_cost_nothing_are_read_at_once():
    assert seen(per_token_s=0.0).tokens(0.1) == 1024


def test_it_follows_a_slower_machine():
    budget = seen()
    for i in range(600):
        prefill_tokens = 0 if i % 2 == 0 else 100
        budget.record(0.04 + 0.001 * prefill_tokens, prefill_tokens)
    assert 45 <= budget.tokens(0.1) <= 55


TPOT_S = {"chat": 0.06, "batch": 0.5}


@pytest.mark.parametrize(
    ("decoding", "reading", "weights", "promised_s"),
    [
        pytest.param(["chat", "batch"], [], {}, 0.06, id="the tightest"),
        pytest.param(["other"], ["chat"], {}, math.inf, id="no promise"),
        pytest.param([], ["chat"], {}, math.inf, id="nobody decodes"),
        pytest.param(["chat"], ["batch"], {"chat": 1.5}, 0.04, id="it falls short: tighter"),
        pytest.param(["chat"], ["chat"], {"chat": 1.5}, 0.06, id="as do those who are read"),
        pytest.param(["chat"], ["batch"], {"batch": 1.5}, 0.06, id="never looser"),
        pytest.param(["chat"], ["batch"], {"chat": 1.5, "batch": 1.2}, 0.048, id="by how much"),
    ],
)
def test_a_class_that_falls_short_is_kept_to_a_tighter_promise(
    decoding, reading, weights, promised_s
):
    found = tightest_s(TPOT_S, decoding=decoding, reading=reading, weights=weights)
    assert found == pytest.approx(promised_s)
