"""Which plan a target replica goes by: faults of the controller cost advice, never service."""

from __future__ import annotations

import pytest

from autoscale.plan import NO_PLAN, ReplicaPlan
from cluster.held_plan import HeldPlan
from cluster.messages import PLAN_TTL_S, TargetPlan
from cluster.observability.samples import plan_samples
from cluster.pace import SHORTEST_S

ADVICE = ReplicaPlan(expected_requests=9.0, class_weights={"latency": 1.3})


@pytest.fixture
def held(clock):
    return HeldPlan(clock)


def plan(epoch=1, seq=1, advice=ADVICE, **fields):
    return TargetPlan(None, "secret", advice=advice, epoch=epoch, seq=seq, **fields)


def test_without_a_plan_local_rules_decide(held):
    assert held.is_stale
    assert held.plan is None
    assert held.age_s is None


def test_a_plan_holds_for_its_time_to_live_and_no_longer(held, clock):
    assert held.take(plan())
    clock.now += PLAN_TTL_S
    assert not held.is_stale
    clock.now += 0.01
    assert held.is_stale
    assert held.plan.secret == "secret"  # what is no advice stays


def test_plans_that_overtake_each_other_are_taken_in_order(held):
    newer = ReplicaPlan(expected_requests=3.0)
    assert held.take(plan(seq=7, advice=newer))
    assert not held.take(plan(seq=6))
    assert not held.take(plan(seq=7))
    assert held.plan.advice == newer
    assert held.num_outdated == 2


def test_of_two_controllers_at_once_the_later_one_is_heard(held):
    assert held.take(plan(epoch=1, seq=900))
    assert held.take(plan(epoch=2, seq=1))
    assert not held.take(plan(epoch=1, seq=901))
    assert held.plan.epoch == 2


def test_when_the_later_one_falls_silent_the_other_is_heard_again(held, clock):
    held.take(plan(epoch=2, seq=1))
    clock.now += PLAN_TTL_S / 2
    assert not held.take(plan(epoch=1, seq=902))
    clock.now += PLAN_TTL_S
    assert held.take(plan(epoch=1, seq=903))
    assert not held.is_stale
    assert held.plan.advice == ADVICE


def test_nonsense_is_refused_field_by_field_and_counted(held):
    held.take(
        plan(
            advice=ReplicaPlan(
                expected_prefill_tokens=2.0,
                expected_requests=float("nan"),
                class_weights={"a": -3},
            )
        )
    )
    assert held.plan.advice == ReplicaPlan(expected_prefill_tokens=2.0)
    assert held.snapshot()["refused"] == {"expected_requests": 1, "class_weights": 1}


@pytest.mark.parametrize("ttl_s", [float("nan"), -1.0, 1e9, "forever", None])
def test_advice_without_a_usable_end_is_not_followed(held, ttl_s):
    assert held.take(plan(ttl_s=ttl_s))
    assert held.plan.advice == NO_PLAN
    assert held.refused == {"ttl_s": 1}
    assert held.take(plan(seq=2))


@pytest.mark.parametrize("interval_s", [float("nan"), 0.0, 1e9, "often", None])
def test_an_interval_that_cannot_be_is_the_shortest(held, interval_s):
    assert held.interval_s == SHORTEST_S
    held.take(plan(interval_s=interval_s))
    assert held.interval_s == SHORTEST_S
    assert held.refused == {"interval_s": 1}
    held.take(plan(seq=2, interval_s=1.5))
    assert held.interval_s == 1.5


def test_faults_of_the_exchange_show_in_metrics(held, clock):
    def told():
        return {(name, *tags.values()): n for name, n, tags in plan_samples(held.snapshot(), 1)}

    nothing = {
        ("dspark_plan_stale",): True,
        ("dspark_plan_outdated",): 0,
        ("dspark_exchange_failures",): 1,
    }
    assert told() == nothing
    held.take(plan(epoch=2, advice=ReplicaPlan(expected_requests=-1.0)))
    held.take(plan(epoch=1))
    clock.now += 1.5
    assert told() == nothing | {
        ("dspark_plan_stale",): False,
        ("dspark_plan_age_seconds",): 1.5,
        ("dspark_plan_refused_fields", "expected_requests"): 1,
        ("dspark_plan_outdated",): 1,
    }
