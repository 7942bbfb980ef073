"""The plan's way into the engine core: what is sent there, and what is gone by there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoscale.plan import NO_PLAN, ReplicaPlan
from cluster.held_plan import MAX_TTL_S
from deployments.plan_channel import ADDRESS, PlanPublisher, PlanSubscriber

ADVICE = ReplicaPlan(expected_requests=3.0, class_weights={"chat": 1.5})


@pytest.fixture
def publisher(clock, monkeypatch) -> Iterator[PlanPublisher]:
    monkeypatch.setenv(ADDRESS, "")
    made = PlanPublisher(clock)
    yield made
    made.close()


@pytest.fixture
def subscriber(publisher, clock) -> Iterator[PlanSubscriber]:
    """Connected: a plan has been taken, and has ended."""
    made = PlanSubscriber(os.environ[ADDRESS], clock)
    until(lambda: publisher.publish(ADVICE, 1.0), lambda: made.current() == ADVICE)
    clock.now += 2.0
    assert made.current() == NO_PLAN
    yield made
    made.close()


def until(again: Callable[[], None], is_so: Callable[[], bool]) -> None:
    """Do it again until it is so: who subscribes late misses what was said before."""
    for _ in range(500):
        again()
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to be")


def nothing() -> None:
    """Wait alone."""


def test_without_a_channel_there_is_no_plan(monkeypatch):
    monkeypatch.delenv(ADDRESS, raising=False)
    assert PlanSubscriber.of_this_process().current() == NO_PLAN


def test_it_leaves_no_file_behind_whatever_ends_it(publisher):
    name = publisher.address.removeprefix("ipc://")
    assert name.startswith("@")  # Linux' abstract names, of which no file is made
    assert name in Path("/proc/net/unix").read_text()
    publisher.close()


def test_a_plan_holds_until_its_time_is_up(publisher, subscriber, clock):
    publisher.publish(ADVICE, 3.0)
    until(nothing, lambda: subscriber.current() == ADVICE)
    clock.now += 2.9
    assert subscriber.current() == ADVICE
    clock.now += 0.2
    assert subscriber.current() == NO_PLAN


def test_of_many_plans_the_newest_is_gone_by(publisher, subscriber):
    for i in range(300):
        publisher.publish(ReplicaPlan(expected_requests=float(i)), 3.0)
    until(nothing, lambda: subscriber.current().expected_requests == 299.0)


def test_a_plan_that_nobody_read_in_time_is_not_gone_by(publisher, subscriber, clock):
    publisher.publish(ADVICE, 3.0)
    time.sleep(0.2)  # it is there, and the engine idle
    clock.now += 60.0
    assert subscriber.current() == NO_PLAN


def test_no_plan_holds_for_ever(publisher, subscriber, clock):
    publisher.publish(ADVICE, 1e9)
    until(nothing, lambda: subscriber.current() == ADVICE)
    clock.now += MAX_TTL_S + 1
    assert subscriber.current() == NO_PLAN


def test_nonsense_costs_the_field_it_is_in(publisher, subscriber):
    publisher.publish(ReplicaPlan(expected_requests=math.nan, class_weights={"chat": 1.5}), 3.0)
    until(nothing, lambda: subscriber.current() == ReplicaPlan(class_weights={"chat": 1.5}))


@pytest.mark.parametrize("sent", [b"", b"{", b"[]", b"{}", b'{"advice": 3, "until_s": "x"}'])
def test_what_is_no_plan_is_counted_and_changes_nothing(publisher, subscriber, sent):
    publisher.publish(ADVICE, 3.0)
    until(nothing, lambda: subscriber.current() == ADVICE)
    publisher._socket.send(sent)
    until(nothing, lambda: subscriber.current() == ADVICE and subscriber.num_unread == 1)


def test_a_replica_that_has_gone_leaves_local_rules(publisher, subscriber, clock):
    publisher.publish(ADVICE, 3.0)
    until(nothing, lambda: subscriber.current() == ADVICE)
    publisher.close()
    clock.now += 3.1
    assert subscriber.current() == NO_PLAN
