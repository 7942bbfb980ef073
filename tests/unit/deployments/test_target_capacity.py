"""What a target tells the autoscaling policy of its seats, by what its worker has learned."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from autoscale.admission import ReplicaLimits
from autoscale.fleet_step_cost import StepCostReport
from autoscale.service_class import ServiceClass
from autoscale.step_cost import StepCostTable
from deployments.replica_gate import ReplicaGate
from deployments.target import TargetServer

CLASSES = {  # within 18 ms: nine requests, and within 36 ms all
    "first": ServiceClass("first", ttft_s=1.0, tpot_s=0.020),
    "other": ServiceClass("other", ttft_s=1.0, tpot_s=0.040),
}
LEARNED = StepCostReport(StepCostTable((1, 16), (0.010, 0.025)), (0.0, 0.0)).to_plain()
UNBELIEVABLE = LEARNED | {"step_cost_s": (0.010, 61.0)}


@pytest.mark.parametrize(
    ("said", "expected_seats"),
    [
        pytest.param([], 16, id="nothing learned yet"),
        pytest.param([None], 16, id="of a policy that learns none"),
        pytest.param([LEARNED], 9, id="learned"),
        pytest.param([LEARNED, UNBELIEVABLE], 9, id="what cannot be changes nothing"),
    ],
)
def test_a_new_target_expects_what_its_worker_learned(said, expected_seats):
    ranks = iter(said)

    async def rpc(method: str) -> list[Any]:
        assert method == "dspark_step_cost"
        return [next(ranks), None]

    gate = ReplicaGate(ReplicaLimits(seats=16), CLASSES)
    target: Any = SimpleNamespace(collective_rpc=rpc, _gate=gate)
    for one in said:
        assert asyncio.run(TargetServer._take_step_cost(target)) == one
    found = asyncio.run(TargetServer.record_autoscaling_stats(target))
    assert found == {"demand_seats": 0.0, "expected_seats": expected_seats}
