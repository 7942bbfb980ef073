"""What is asked of one controller is bounded, and everything that waits follows the interval."""

from __future__ import annotations

import math

import pytest

from cluster.controller import MAX_INGRESSES, MAX_REPLICAS
from cluster.held_plan import MAX_TTL_S
from cluster.pace import LONGEST_S, MOST_PER_S, SHORTEST_S, bounded_s, interval_s, lifetime_s

MOST_REPLICAS = 2 * MAX_REPLICAS + MAX_INGRESSES


@pytest.mark.parametrize(
    ("num_replicas", "expected_s"), [(0, 0.5), (2, 0.5), (300, 0.5), (600, 1.0), (1200, 2.0)]
)
def test_interval_by_fleet(num_replicas, expected_s):
    assert interval_s(num_replicas) == expected_s


@pytest.mark.parametrize("num_replicas", [1, 300, 301, 1000, MOST_REPLICAS])
def test_one_controller_is_asked_so_often_at_most(num_replicas):
    assert num_replicas / interval_s(num_replicas) <= MOST_PER_S + 1e-9


def test_of_the_largest_fleet_the_interval_is_still_by_the_law_and_its_plans_are_followed():
    assert interval_s(MOST_REPLICAS) == MOST_REPLICAS / MOST_PER_S < LONGEST_S
    assert lifetime_s(interval_s(MOST_REPLICAS)) < MAX_TTL_S


@pytest.mark.parametrize(
    ("claimed_s", "used_s"), [(math.nan, SHORTEST_S), (-1.0, SHORTEST_S), (1e9, LONGEST_S)]
)
def test_of_what_somebody_claims_the_nearest_that_can_be_is_used(claimed_s, used_s):
    assert bounded_s(claimed_s) == used_s
