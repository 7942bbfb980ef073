"""What the controller's actor does beside answering: it learns of those that report."""

from __future__ import annotations

import asyncio

import pytest

from autoscale.fleet_step_cost import StepCostReport
from autoscale.step_cost import StepCostTable
from cluster.fleet_bench import target_reports
from deployments.controller import ControllerActor, ControllerSettings


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
