from __future__ import annotations

import math

import pytest

from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.fleet_step_cost import StepCostReport
from autoscale.seat_capacity import ProfiledTokenTime, SeatCapacity, seat_capacity
from autoscale.seat_limit import TokenTime
from autoscale.step_cost import StepCostTable

# 10 ms and 1 ms per token, 1 ms per request, 1 ms per 1000 tokens of context.
TABLE = StepCostTable((1, 64), (0.011, 0.074), 0.001, 1e-6)
DRAFTS = DraftExperience(((1, 0.002), (2, 0.003)), accepted=2.0, verified=3.0, num_drafts=100)


def profile(drafts: DraftExperience = NO_EXPERIENCE, context: float = 0.0) -> ProfiledTokenTime:
    return ProfiledTokenTime(StepCostReport(TABLE, (0.0, 0.0), drafts), context)


def test_without_drafts_a_token_takes_a_step():
    assert profile().tpot_s(1) == pytest.approx(0.012)
    assert profile().tpot_s(8) == pytest.approx(0.026)
    assert profile(context=500.0).tpot_s(8) == pytest.approx(0.030)


def test_with_drafts_it_takes_the_share_of_a_step_that_their_acceptance_leaves():
    # Two requests: 8 tokens, 2 requests, 3 ms to draft, 3 tokens committed by each.
    assert profile(DRAFTS).tpot_s(2) == pytest.approx((0.018 + 0.002 + 0.003) / 3)


def test_drafts_that_do_not_pay_are_not_asked_for():
    useless = DraftExperience(((1, 0.002),), accepted=0.1, verified=7.0, num_drafts=100)
    assert profile(useless).tpot_s(4) == profile().tpot_s(4)


def test_seats_are_those_with_which_tokens_come_in_time():
    assert profile().seats(0.0261, 64) == 8
    assert profile().seats(1.0, 64) == 64
    assert profile().seats(0.0119, 64) == 0
    assert profile().seats(math.inf, 64) == 64


def test_the_share_that_grows_is_what_twice_as_many_would_add():
    assert profile().growing_share(8) == pytest.approx(0.016 / 0.026)
    assert profile().growing_share(0.2) == profile().growing_share(1)


def test_before_anything_was_seen_the_profile_tells_and_without_one_all_seats_are_expected():
    nothing = TokenTime()
    assert seat_capacity(nothing, None, 0.030, 32) == SeatCapacity(None, 32)
    assert seat_capacity(nothing, profile(), 0.030, 32) == SeatCapacity(None, 8)  # within 27 ms
    assert seat_capacity(nothing, profile(DRAFTS), 0.030, 32).expected == 11
    assert seat_capacity(nothing, profile(), 0.001, 32) == SeatCapacity(None, 4)  # one in eight


def test_of_one_load_alone_the_profile_tells_what_more_requests_add():
    seen = TokenTime()
    for _ in range(10):
        seen.record(1.0, seat_s=4.0, tokens=4 / 0.036)  # twice what the profile says of 4
    # 4.5 ms more with each: 90 ms with 16 of them.
    found = seat_capacity(seen, profile(), 0.100, 32).seen
    slope_s = 0.036 * profile().growing_share(4) / 4
    assert found == pytest.approx((4 + (0.090 - 0.036) / slope_s) * 36 / 90)
    without = seat_capacity(seen, None, 0.100, 32).seen
    assert without == pytest.approx(32 * 36 / (36 + 28 * 36 * (4 / 20) / 4))
