"""What the adapter tells the schedule of the coming step, and for how long advice holds."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.policies import PLAIN_TERMS
from deployments.engine.engine_step import RequestTerms
from deployments.engine.step_forecast import StepForecast
from deployments.engine.worker_plan import AdviceInForce, WorkerPlan

PLAN = ReplicaPlan(6.0, class_weights={"latency": 1.5})


@pytest.fixture
def forecast(clock):
    made = StepForecast(512, 32)
    made.advice = AdviceInForce(clock)
    return made


def test_prompts_being_read_are_counted_until_their_first_token(forecast):
    forecast.open("a", RequestTerms(prompt_tokens=100))
    forecast.open("b", RequestTerms(prompt_tokens=50))
    assert forecast.terms(["a"], []).prefill_tokens == 150
    forecast.read("a", 64, has_begun=False)
    assert forecast.terms(["a"], []).prefill_tokens == 86
    forecast.read("a", 100, has_begun=True)
    forecast.close("b")
    assert forecast.terms(["a"], ["a"]) == PLAIN_TERMS


def test_weights_follow_the_classes_of_requests_while_the_advice_holds(forecast, clock):
    forecast.open("a", RequestTerms(service_class="latency"))
    forecast.open("b", RequestTerms())
    assert forecast.advice.take(asdict(PLAN), 3.0) == 0
    terms = forecast.terms(["b", "a"], ["a"])
    assert (terms.weights.tolist(), terms.plain_weight, terms.joining_requests) == ([1.5], 1.0, 4)
    clock.now += 3.1
    assert forecast.terms(["b", "a"], ["a"]) == PLAIN_TERMS


def test_weights_follow_requests_that_come_and_go(forecast):
    forecast.advice.take(asdict(PLAN), 3.0)
    for name, service_class in (("a", "latency"), ("b", "")):
        forecast.open(name, RequestTerms(service_class=service_class))
    for _ in range(2):
        assert forecast.terms(["a", "b"], ["a", "b"]).weights.tolist() == [1.5, 1.0]
    assert forecast.terms(["b", "a"], ["b", "a"]).weights.tolist() == [1.0, 1.5]
    forecast.close("a")
    forecast.open("a", RequestTerms())  # the same name, of another class
    assert forecast.terms(["b", "a"], ["b", "a"]).weights is None
    forecast.advice.take(asdict(ReplicaPlan(class_weights={"": 1.2})), 3.0)
    assert forecast.terms(["b", "a"], ["b"]).plain_weight == pytest.approx(1.2)


def test_advice_holds_until_its_time_is_up(clock):
    advice = AdviceInForce(clock)
    advice.take(asdict(PLAN), 1.0)
    assert advice.current() == PLAN
    clock.now += 1.1
    assert advice.current() == NO_PLAN


def test_nonsense_in_advice_is_counted_and_the_rest_followed(clock):
    advice = AdviceInForce(clock)
    nonsense = {"expected_prefill_tokens": float("nan"), "price": 1}
    assert advice.take(asdict(PLAN) | nonsense, 1.0) == 2
    assert advice.current() == ReplicaPlan(expected_requests=6.0, class_weights={"latency": 1.5})


def test_a_worker_plan_crosses_as_plain_values():
    plan = WorkerPlan("tcp://d:1", "secret", advice=asdict(PLAN), advice_s=3.0)
    assert WorkerPlan.from_plain(plan.to_plain()) == plan
    with pytest.raises(ValueError, match="budget"):
        WorkerPlan.from_plain({"budget": 3})
