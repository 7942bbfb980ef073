"""Every field of a plan, from loads alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.fleet_load import ClassOutcomes, ReplicaLoad, fleet_load
from autoscale.plan import (
    class_weights,
    expected_prefill_tokens,
    expected_requests,
    make_plans,
    speed_shares,
)
from autoscale.service_class import ServiceClass

CLASSES = (ServiceClass("latency", 1.0, 0.05, 0.95), ServiceClass("batch", 10.0, 0.5, 0.9))
LOAD = ReplicaLoad(
    running=10,
    waiting=0,
    seats=32,
    prefill_tokens=100,
    arrivals_per_s=2.0,
    prompt_tokens_per_s=600.0,
    tokens_per_s=500.0,
    relative_step_cost=1.0,
    step_s=0.1,
    num_drafts=1000,
    accepted_tokens=2000,
    draft_wait_s=0.01,
)


def with_outcomes(**outcomes):
    return replace(LOAD, outcomes={k: ClassOutcomes(*v) for k, v in outcomes.items()})


def test_loads_add_up():
    fleet = fleet_load([with_outcomes(latency=(10, 8)), with_outcomes(latency=(30, 30))])
    assert (fleet.num_replicas, fleet.running, fleet.seats) == (2, 20, 64)
    assert (fleet.arrivals_per_s, fleet.tokens_per_s) == (4.0, 1000.0)
    assert fleet.outcomes == {"latency": ClassOutcomes(40, 38)}


def test_the_wait_for_drafts_is_of_those_that_draft():
    plain, slow = replace(LOAD, num_drafts=0, draft_wait_s=0.0), replace(LOAD, draft_wait_s=0.03)
    assert fleet_load([LOAD, slow, plain]).draft_wait_s == pytest.approx(0.02)
    assert fleet_load([plain]).draft_wait_s == 0.0


@pytest.mark.parametrize(
    ("outcomes", "weights"),
    [
        ({}, (1, 1)),
        ({"latency": (100, 100), "batch": (100, 95)}, (1, 1)),
        ({"latency": (100, 93), "batch": (100, 95)}, (1.64, 1)),
        ({"latency": (100, 0), "batch": (100, 95)}, (2, 1)),
        ({"latency": (100, 90), "batch": (100, 85)}, (1, 1)),
        ({"latency": (3, 0)}, (1, 1)),
    ],
    ids=["nothing known", "kept", "missed by 2 points", "always missed", "both alike", "too few"],
)
def test_weight_goes_to_the_class_whose_promise_is_not_kept(outcomes, weights):
    found = class_weights(fleet_load([with_outcomes(**outcomes)]), CLASSES)
    assert (found["latency"], found["batch"]) == pytest.approx(weights)


def test_a_slow_node_gets_its_share_and_no_more():
    slow = replace(LOAD, relative_step_cost=2.0)
    assert speed_shares([LOAD, LOAD, slow]) == pytest.approx([1.2, 1.2, 0.6])


@pytest.mark.parametrize("cost", [0.0, float("inf"), 1e9])
def test_nonsense_about_speed_is_bounded(cost):
    shares = speed_shares([LOAD, replace(LOAD, relative_step_cost=cost)])
    assert all(share > 0 for share in shares)


def test_expected_requests_are_drawn_to_the_fleets_and_bounded_by_the_seats():
    idle, busy = replace(LOAD, running=0), replace(LOAD, running=20, waiting=40)
    fleet = fleet_load([idle, busy])
    assert expected_requests(fleet, idle, 1.0) == pytest.approx(15)
    assert expected_requests(fleet, busy, 1.0) == 32


def test_expected_prefill_is_traffic_times_prompts():
    fleet = fleet_load([LOAD, LOAD])
    assert expected_prefill_tokens(fleet, LOAD, 1.0) == pytest.approx(600.0 * 0.1)


def test_every_replica_gets_a_plan_and_none_gets_none():
    assert make_plans([], CLASSES) == []
    plans = make_plans([LOAD] * 3, CLASSES)
    assert len(plans) == 3
    assert plans[0].class_weights == {"latency": 1.0, "batch": 1.0}
