from __future__ import annotations

import pytest

from autoscale.drain_rate import DrainRate


def steady(*, running: int, work_per_s: float, seconds: float) -> DrainRate:
    drain = DrainRate()
    drain.record(0.0, running=running)
    for i in range(1, int(seconds * 10) + 1):
        drain.record(i / 10, running=running, work=work_per_s / 10)
    return drain


def test_nothing_is_known_at_first():
    assert DrainRate().per_s(8, 0.0) is None


def test_seats_that_are_taken_say_nothing_before_anything_was_done():
    drain = DrainRate()
    drain.record(0.0, running=8)
    assert drain.per_s(8, 2.0) is None
    drain.record(2.0, running=8, work=40.0)
    assert drain.per_s(8, 2.0) == 20.0


def test_with_all_seats_taken_it_is_the_throughput():
    drain = steady(running=8, work_per_s=400.0, seconds=20)
    assert drain.per_s(8, 20.0) == pytest.approx(400, rel=0.03)


def test_fewer_taken_seats_stand_for_all():
    drain = steady(running=2, work_per_s=100.0, seconds=20)
    assert drain.per_s(8, 20.0) == pytest.approx(400, rel=0.03)


def test_it_follows_a_change_within_its_memory():
    drain = steady(running=8, work_per_s=400.0, seconds=20)
    for i in range(1, 201):
        drain.record(20 + i / 10, running=8, work=10.0)
    assert drain.per_s(8, 40.0) == pytest.approx(100, rel=0.05)


def test_seats_that_bring_nothing_count():
    drain = steady(running=8, work_per_s=400.0, seconds=20)
    stuck = drain.per_s(8, 30.0)
    assert stuck is not None
    assert stuck < 40


def test_after_a_pause_nothing_is_known_again():
    drain = steady(running=8, work_per_s=400.0, seconds=20)
    drain.record(20.0, running=0)
    assert drain.per_s(8, 40.0) is None


def test_seats_taken_after_a_pause_have_time_to_show_something():
    drain = steady(running=1, work_per_s=20.0, seconds=2)
    drain.record(2.0, running=0)
    drain.record(8.0, running=32)
    assert drain.per_s(32, 9.0) is None
    for i in range(1, 21):
        drain.record(9.0 + i / 10, running=32, work=64.0)
    assert drain.per_s(32, 11.0) == pytest.approx(640, rel=0.4)


def test_one_slow_answer_says_nothing_of_many():
    drain = DrainRate()
    drain.record(0.0, running=1)
    drain.record(6.0, running=0, work=3.0)
    assert drain.per_s(32, 6.0) is None
