"""What the controller's actor does beside answering, and when it is replaced."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from autoscale.fleet_step_cost import StepCostReport
from autoscale.step_cost import StepCostTable
from cluster.fleet_bench import target_reports
from cluster.messages import DrafterReport
from cluster.observability.samples import PoolSizes, fleet_samples
from deployments import controller
from deployments.controller import ControllerActor, ControllerKeeper, ControllerSettings


@pytest.fixture
def actor(monkeypatch):
    """Its thread does nothing by itself."""
    monkeypatch.setattr("cluster.learning_thread.threading.Thread.start", lambda self: None)
    return ControllerActor(ControllerSettings())


def steps_of(cost_s):
    return StepCostReport(StepCostTable((1, 8), (cost_s, 2 * cost_s)), (500.0, 500.0)).to_plain()


def test_of_replicas_that_are_gone_no_step_costs_are_merged_however_many_went(actor):
    (living,) = target_reports(1)
    asyncio.run(actor.report_target(living))
    actor._step_costs.absorb(living.engine, living.replica_id, steps_of(0.01))
    for i in range(300):  # more than wait for the thread
        actor._step_costs.absorb(living.engine, f"gone{i}", steps_of(0.04))
    actor._refit()
    (merged,) = actor._step_costs.snapshot()
    assert merged["step_cost_s"] == [0.01, 0.02]
    assert actor._thread.num_dropped == 0


class Method:
    """Of a handle: its calls, done by the actor itself or refused."""

    def __init__(self, call):
        self._call = call
        self.num_calls = 0

    async def remote(self):
        self.num_calls += 1
        return await self._call()


class Handle:
    def __init__(self, actor):
        for name in ("ping", "publish", "snapshot"):
            setattr(self, name, Method(getattr(actor, name)))


@pytest.fixture
def keeper(actor):
    kept = ControllerKeeper.__new__(ControllerKeeper)
    kept._actor = Handle(actor)
    return kept


def test_statistics_that_break_the_snapshot_leave_the_controller_in_place(actor, keeper):
    """Of one replica, of another version say."""
    (report,) = target_reports(1)
    asyncio.run(actor.report_target(replace(report, stats={"draft_tokens": "many"})))
    with pytest.raises(TypeError):
        asyncio.run(actor.snapshot())
    asyncio.run(keeper.check_health())


def test_a_controller_that_does_not_answer_is_replaced(keeper):
    async def dead():
        raise ConnectionError("gone")

    keeper._actor.ping = Method(dead)
    with pytest.raises(ConnectionError):
        asyncio.run(keeper.check_health())


def test_the_keeper_goes_on_publishing_whatever_becomes_of_it(keeper, monkeypatch):
    async def fails():
        if keeper._actor.publish.num_calls == 3:
            raise asyncio.CancelledError
        raise ValueError("nonsense")

    keeper._actor.publish = Method(fails)
    monkeypatch.setattr(controller, "PUBLISH_EVERY_S", 0.0)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(keeper._publish_forever())


def test_what_is_published_is_what_the_snapshot_shows(actor):
    (report,) = target_reports(1)
    split = [replace(report, replica_id=name) for name in ("t1", "t2")]
    for one in (*split, replace(report, replica_id="t3", placement="off")):
        asyncio.run(actor.report_target(one))
    secret = asyncio.run(actor.report_drafter(drafter := DrafterReport("d", "m", "a", 1))).secret
    asyncio.run(actor.report_drafter(replace(drafter, secret=secret, busy=0.5)))
    pools = {"m": PoolSizes(4, 2)}
    outline, snapshot = actor._fleet.outline(), actor._fleet.snapshot()
    told = [list(fleet_samples(fleet, pools, {})) for fleet in (outline, snapshot)]
    assert told[0] == told[1]
    assert ("dspark_fleet_targets", 3, {"model": "m"}) in told[0]
    assert ("dspark_fleet_drafter_busy", 0.5, {"model": "m"}) in told[0]
