from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from autoscale.seat_limit import TokenTime


def seen(*runs: tuple[int, float], each: int = 10) -> TokenTime:
    """Intervals of a second with so many requests, a token each taking so long."""
    times = TokenTime()
    for _ in range(each):
        for running, tpot_s in runs:
            times.record(1.0, seat_s=running, tokens=running / tpot_s)
    return times


def test_without_experience_few_sit_down_at_first():
    assert TokenTime().seats(0.01, 32) == 4
    assert TokenTime().seats(math.inf, 32) == 32
    assert TokenTime().tpot_s(4) is None


def test_a_burst_is_let_in_by_doubling():
    times = seen((4, 0.01), each=1)
    assert times.seats(0.05, 32) == 8
    times.record(0.25, seat_s=8 * 0.25, tokens=8 * 0.25 / 0.011)
    assert times.seats(0.05, 32) == 16
    times.record(0.25, seat_s=16 * 0.25, tokens=16 * 0.25 / 0.06)
    assert times.seats(0.05, 32) < 16


def test_a_line_through_what_was_seen():
    times = seen((4, 0.014), (16, 0.026))  # 10 ms and 1 ms per request
    assert times.tpot_s(8) == pytest.approx(0.018, rel=0.03)
    assert times.seats(0.030, 32) == pytest.approx(17, abs=1)  # of 27 ms


def test_no_promise_no_limit():
    assert seen((4, 0.014), (16, 0.026)).seats(math.inf, 32) == 32


def test_seats_never_fall_to_nothing():
    assert seen((4, 1.0), (16, 4.0)).seats(0.01, 32) == 4
    assert seen((4, 1.0), (16, 4.0)).seats(0.01, 4) == 1


def test_flat_times_leave_all_seats():
    assert seen((4, 0.02), (16, 0.02)).seats(0.04, 32) == 32


def test_seen_at_one_load_alone_half_is_taken_to_scale():
    assert seen((8, 0.020)).tpot_s(16) == pytest.approx(0.030)


def test_an_idle_while_forgets():
    times = seen((4, 1.0), (16, 4.0))
    times.record(200.0, seat_s=0.0, tokens=0.0)
    assert times.tpot_s(4) is None
    assert times.seats(0.01, 32) == 4


def test_new_speed_replaces_old():
    times = seen((4, 1.0), (16, 4.0))
    for _ in range(20):
        for running, tpot_s in ((4, 0.014), (16, 0.026)):
            times.record(1.0, seat_s=running, tokens=running / tpot_s)
    assert times.tpot_s(8) == pytest.approx(0.018, rel=0.2)


def test_whoever_got_tokens_was_there_for_all_that_time():
    short = TokenTime()
    for _ in range(10):  # one request, for a quarter of the time
        short.record(1.0, seat_s=0.25, tokens=25)
    assert short.tpot_s(1) == pytest.approx(0.010)


def growing(share: float) -> Callable[[float], float]:
    return lambda running: share


def test_capacity_is_what_gets_done_at_the_promise_in_seats_as_fast_as_now():
    times = seen((4, 0.014), (16, 0.026))  # weighed by tokens: 22.2 ms are usual
    assert times.capacity(0.030, 32, growing(0.5)) == pytest.approx(17 * 22.2 / 27, rel=0.03)
    assert times.capacity(math.inf, 16, growing(0.5)) == pytest.approx(16 * 22.2 / 26, rel=0.03)
    assert times.capacity(0.001, 32, growing(0.5)) == pytest.approx(4 * 22.2 / 14, rel=0.03)


def test_capacity_is_not_bounded_by_how_many_were_seen():
    once = seen((1, 0.010))
    assert once.seats(0.100, 32) == 4
    assert once.capacity(0.100, 32, growing(0.1)) == pytest.approx(32 * 10 / 41)
    assert once.capacity(0.100, 32, growing(0.0)) == 32.0
    assert once.capacity(0.100, 32, growing(1.0)) == pytest.approx(1.0)  # nothing is gained


def test_nothing_is_known_of_the_capacity_before_some_tokens_came():
    assert TokenTime().capacity(0.1, 32, growing(0.5)) is None
    assert seen((1, 1.0)).capacity(0.1, 32, growing(0.5)) is None  # ten tokens


def test_fewer_than_were_seen_get_no_more_done():
    # As if 16 requests took four times what they would need one after the other.
    assert seen((16, 0.100)).capacity(0.020, 32, growing(4.0)) == pytest.approx(16.0)
