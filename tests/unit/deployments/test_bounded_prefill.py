"""How many tokens vLLM's scheduler may give to a step, whatever the fleet's plan says."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from autoscale.plan import ReplicaPlan
from deployments.engine.bounded_prefill import BoundedPrefill
from deployments.plan_channel import ADDRESS, PlanPublisher

LEAST, MOST, STEP = 16, 512, 1024


@dataclass
class Request:
    """What is read of a vLLM request: one that decodes has one token to compute."""

    class_name: str
    is_prefill_chunk: bool = False
    num_tokens_with_spec: int = 1
    num_output_placeholders: int = 0
    num_computed_tokens: int = 0
    sampling_params: Any = field(init=False)

    def __post_init__(self) -> None:
        self.sampling_params = SimpleNamespace(extra_args={"dspark_class": self.class_name})


class VllmScheduler:
    """What is used of vLLM's: it schedules as much as it may."""

    def __init__(self, vllm_config: Any) -> None:
        self.max_num_scheduled_tokens = STEP
        self.running: list[Request] = []
        self.waiting: list[Request] = []

    def schedule(self) -> Any:
        return SimpleNamespace(total_num_scheduled_tokens=self.max_num_scheduled_tokens)


class Scheduler(BoundedPrefill, VllmScheduler):
    """As `deployments.engine.prefill_scheduler` has it."""


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv(ADDRESS, "")
    made = PlanPublisher()
    yield made
    made.close()


def scheduler(clock, monkeypatch, seconds_per_token=0.001) -> Scheduler:
    """One that has seen what prompts cost: half of a 40 ms promise leaves about 36 ms."""
    monkeypatch.setattr("deployments.engine.bounded_prefill.time", SimpleNamespace(monotonic=clock))
    settings = {"least": LEAST, "most": MOST, "tpot_s": {"chat": 0.04, "batch": 1.0}}
    made = Scheduler(SimpleNamespace(additional_config={"dspark_prefill": settings}))
    made.running = [Request("chat"), Request("batch", is_prefill_chunk=True)]
    for _ in range(40):
        output = made.schedule()
        clock.now += seconds_per_token * (output.total_num_scheduled_tokens - 1)
    return made


def prefill_tokens(made: Scheduler) -> int:
    return made.schedule().total_num_scheduled_tokens - 1  # one of them decodes


def told(publisher: PlanPublisher, made: Scheduler, plan: ReplicaPlan, ttl_s: float = 30.0) -> None:
    for _ in range(500):
        publisher.publish(plan, ttl_s)
        time.sleep(0.01)
        if made._plans.current() == plan:
            return
    raise AssertionError("the plan did not arrive")


def test_nobody_who_decodes_leaves_the_whole_step_to_prompts(clock, monkeypatch):
    monkeypatch.delenv(ADDRESS, raising=False)
    made = scheduler(clock, monkeypatch)
    made.running = [Request("batch", is_prefill_chunk=True)]
    assert made.schedule().total_num_scheduled_tokens == STEP


def test_the_plan_tightens_the_promise_of_a_class_that_falls_short(clock, monkeypatch, publisher):
    made = scheduler(clock, monkeypatch)
    assert prefill_tokens(made) == 36  # 0.9 of 40 ms
    told(publisher, made, ReplicaPlan(class_weights={"chat": 1.5}))
    assert prefill_tokens(made) == 24
    made.waiting, made.running = [Request("chat")], made.running[:1]
    assert prefill_tokens(made) == 36  # prompts of the same class wait


def test_a_stale_plan_is_followed_no_longer(clock, monkeypatch, publisher):
    made = scheduler(clock, monkeypatch)
    told(publisher, made, ReplicaPlan(class_weights={"chat": 1.5}), ttl_s=0.5)
    time.sleep(0.7)
    assert prefill_tokens(made) == 36


@pytest.mark.parametrize("weight", [0.1, 10.0])
@pytest.mark.parametrize("seconds_per_token", [1e-6, 0.001, 1.0])
def test_bounds_hold_whatever_the_plan_says(
    clock, monkeypatch, publisher, weight, seconds_per_token
):
    made = scheduler(clock, monkeypatch, seconds_per_token)
    told(publisher, made, ReplicaPlan(class_weights={"chat": weight, "batch": 1 / weight}))
    assert LEAST <= prefill_tokens(made) <= MOST


def test_an_engine_without_a_channel_goes_by_local_rules(clock, monkeypatch):
    monkeypatch.delenv(ADDRESS, raising=False)
    assert os.environ.get(ADDRESS) is None
    assert prefill_tokens(scheduler(clock, monkeypatch)) == 36
