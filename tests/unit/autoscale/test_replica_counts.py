from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscale.demand import Demand
from autoscale.replica_counts import (
    Bounds,
    DrafterPool,
    TargetPool,
    drafter_replicas,
    target_replicas,
)
from autoscale.trend import Trend, expected_level, lasting_level


def targets(
    demand: float, *, current: int = 2, least: int = 1, most: int = 10, seats: float = 10.0
) -> TargetPool:
    return TargetPool(current, Bounds(least, most), demand, seats)


@pytest.mark.parametrize(
    ("pool", "replicas"),
    [
        pytest.param(targets(0.0), 1, id="nothing to do: the least"),
        pytest.param(targets(0.0, least=0), 0, id="none at all where that is allowed"),
        pytest.param(targets(0.009, least=0), 0, id="what has all but faded is none"),
        pytest.param(targets(0.011, least=0), 2, id="a hundredth of a seat is some"),
        pytest.param(targets(5.0), 2, id="one is enough, two survive a loss"),
        pytest.param(targets(5.0, most=1), 1, id="unless the bounds forbid it"),
        pytest.param(targets(20.0), 3, id="2 carry 20 seats, one more survives, 2.5 are at 80 %"),
        pytest.param(targets(64.0), 8, id="80 % of the seats in use"),
        pytest.param(targets(500.0), 10, id="the most"),
        pytest.param(targets(64.0, seats=0.0, current=4), 4, id="unknown capacity: as it is"),
        pytest.param(targets(math.nan, current=4), 4, id="no number: as it is"),
        pytest.param(targets(math.inf, current=4), 4, id="infinite: as it is"),
        pytest.param(targets(5.0, least=4), 4, id="never below the least"),
    ],
)
def test_replicas_of_targets(pool, replicas):
    assert target_replicas(pool, pool.demand_seats) == replicas


@pytest.mark.parametrize(
    ("busy", "current", "wanted_targets", "replicas"),
    [
        pytest.param(0.6, 2, 4, 2, id="as busy as they should be"),
        pytest.param(0.6, 2, 8, 4, id="twice the targets"),
        pytest.param(0.6, 2, 2, 1, id="half the targets"),
        pytest.param(0.1, 2, 4, 1, id="idle ones go, one stays"),
        pytest.param(0.9, 2, 4, 5, id="saturated: demand may be more than is seen"),
        pytest.param(0.9, 2, 0, 0, id="no targets, no drafters"),
        pytest.param(math.nan, 2, 4, 2, id="no number: as it is"),
        pytest.param(7.0, 2, 4, 5, id="more than busy is busy"),
    ],
)
def test_replicas_of_drafters(busy, current, wanted_targets, replicas):
    pool = DrafterPool(current, Bounds(0, 10), busy)
    assert drafter_replicas(pool, targets(20.0, current=4), wanted_targets) == replicas


@pytest.mark.parametrize(
    ("busy", "wait_steps", "replicas"),
    [
        pytest.param(0.3, 0.15, 1, id="waits as they are expected of its work"),
        pytest.param(0.3, 0.3, 2, id="of one that is busier than it looks"),
        pytest.param(0.3, 3.0, 5, id="several steps long: saturated"),
        pytest.param(0.9, 0.0, 5, id="busy, and yet nobody waits"),
        pytest.param(0.6, math.nan, 2, id="waits of no number say nothing"),
        pytest.param(0.6, -1.0, 2, id="nor negative ones"),
    ],
)
def test_what_waits_for_drafters_counts_as_work(busy, wait_steps, replicas):
    pool = DrafterPool(2, Bounds(0, 10), busy, wait_steps)
    assert drafter_replicas(pool, targets(20.0, current=4), 4) == replicas


numbers = st.floats(allow_nan=True, allow_infinity=True)
counts = st.integers(0, 50)


@given(numbers, numbers, numbers, numbers, counts, counts, counts, numbers, numbers)
def test_whatever_the_numbers_are_it_stays_within_bounds(
    demand, seats, busy, wait_steps, current, least, more, per_s, elapsed_s
):
    bounds = Bounds(least, least + more)
    pool = TargetPool(current, bounds, demand, seats)
    trend = Trend(demand, per_s, 0.0).followed(demand, elapsed_s)
    wanted = target_replicas(pool, lasting_level(demand, trend))
    assert bounds.least <= wanted <= bounds.most
    drafters = drafter_replicas(DrafterPool(current, bounds, busy, wait_steps), pool, wanted)
    assert bounds.least <= drafters <= bounds.most


def test_a_rise_is_expected_to_go_on_and_a_fall_is_not():
    trend = Trend(100.0, 0.0, 0.0)
    for second in range(1, 121):
        trend = trend.followed(100.0 + second, float(second))
    assert trend.per_s == pytest.approx(1.0, abs=0.1)
    assert expected_level(220.0, trend) == pytest.approx(220 + 60 * trend.per_s)
    assert expected_level(220.0, Trend(220.0, -1.0, 0.0)) == 220.0
    assert expected_level(10.0, Trend(10.0, 5.0, 0.0)) == 20.0  # no more than twice


@pytest.mark.parametrize(
    ("level", "lately", "lasting"),
    [(100.0, 90.0, 100.0), (60.0, 90.0, 90.0), (40.0, 90.0, 80.0), (0.0, 90.0, 0.0)],
)
def test_a_fall_is_believed_by_half_at_most_until_it_lasts(level, lately, lasting):
    assert lasting_level(level, Trend(lately, -1.0, 0.0)) == lasting


@pytest.mark.parametrize("jump_s", [-86400.0, 86400.0])
def test_a_clock_that_jumps_expects_no_rise_and_goes_on(jump_s):
    trend, now_s = Trend(100.0, 0.5, 1000.0), 1000.0 + jump_s
    trend = trend.followed(100.0, now_s)
    assert expected_level(100.0, trend) == pytest.approx(100.0, abs=0.1)
    for second in range(1, 121):
        trend = trend.followed(100.0 + second, now_s + second)
    assert trend.per_s == pytest.approx(1.0, abs=0.1)


def test_demand_counts_whoever_came_whether_served_or_not():
    demand = Demand()
    for i in range(1200):  # ten per second for two minutes, each would sit two seconds
        demand.arrived(1, i / 10)
    demand.left(2.0)
    assert demand.seats(120.0) == pytest.approx(20.0, rel=0.02)
    assert demand.seats(240.0) < 0.1
