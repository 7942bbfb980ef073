"""What a plan means for the schedule of a step."""

from __future__ import annotations

import numpy as np

from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.policies import PLAIN_TERMS
from autoscale.step_terms import request_weights, step_terms


def terms(plan, num_requests, unread_tokens=0, max_step_tokens=512):
    return step_terms(
        plan,
        num_requests,
        unread_tokens=unread_tokens,
        max_step_tokens=max_step_tokens,
        max_requests=32,
    )


def test_without_a_plan_only_own_prompts_count():
    assert terms(NO_PLAN, 4) == PLAIN_TERMS
    assert terms(NO_PLAN, 4, unread_tokens=70).prefill_tokens == 70


def test_the_larger_of_own_and_forecast_prompts_counts_up_to_a_steps_tokens():
    plan = ReplicaPlan(expected_prefill_tokens=99.6)
    assert terms(plan, 4, unread_tokens=70).prefill_tokens == 100
    assert terms(plan, 4, unread_tokens=130).prefill_tokens == 130
    assert terms(plan, 4, unread_tokens=130, max_step_tokens=64).prefill_tokens == 64


def test_expected_requests_beyond_those_here_join_as_far_as_there_is_room():
    plan = ReplicaPlan(expected_requests=10.4)
    assert terms(plan, 4).joining_requests == 6
    assert terms(plan, 12).joining_requests == 0
    assert terms(ReplicaPlan(expected_requests=60_000.0), 4).joining_requests == 28


def test_weights_of_drafted_requests_and_the_sum_of_the_others():
    weights = request_weights({"latency": 1.5}, ["latency", "batch", "latency", ""])
    assert weights.tolist() == [1.5, 1.0, 1.5, 1.0]
    found = step_terms(
        NO_PLAN,
        4,
        unread_tokens=0,
        max_step_tokens=64,
        max_requests=32,
        weights=weights,
        drafted=np.array([0, 3]),
    )
    assert found.weights.tolist() == [1.5, 1.0]
    assert found.plain_weight == 2.5


def test_where_all_weigh_alike_there_are_no_weights():
    assert request_weights({"latency": 1.0}, ["latency", "batch"]) is None
    assert request_weights({"latency": 1.5}, ["batch"]) is None
