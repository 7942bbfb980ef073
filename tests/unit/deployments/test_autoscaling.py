from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from autoscale.seat_capacity import SeatCapacity
from deployments.autoscaling import drafter_stats, fleet_policy, target_stats
from drafters.server import ServerStats


@dataclass
class FakeContext:
    """What the policy reads of Ray Serve's context."""

    deployment_name: str
    aggregated_metrics: Any = None
    current_num_replicas: int = 2
    target_num_replicas: int = 2
    capacity_adjusted_min_replicas: int = 1
    capacity_adjusted_max_replicas: int = 8
    total_queued_requests: float | None = 0.0
    policy_state: dict[str, Any] = field(default_factory=dict)
    current_time: float | None = 100.0


def target(demand: float = 30.0, seats: float = 16.0, **kwargs: Any) -> FakeContext:
    metrics = {
        "demand_seats": {"r1": demand / 2, "r2": demand / 2},
        "seats": {"r1": seats, "r2": seats},
    }
    return FakeContext("Target:m", metrics, **kwargs)


def drafter(busy: float = 0.6, wait: float = 0.0, **kwargs: Any) -> FakeContext:
    metrics = {"busy": {"d1": busy, "d2": busy}, "wait_steps": {"d1": wait, "d2": wait}}
    return FakeContext("Drafter:m", metrics, **kwargs)


def decide(*contexts: FakeContext) -> dict[str, int]:
    counts, states = fleet_policy({one.deployment_name: one for one in contexts})
    assert states.keys() == counts.keys()
    return counts


@pytest.mark.parametrize(
    ("contexts", "counts"),
    [
        ([target()], {"Target:m": 3}),
        ([target(), drafter()], {"Target:m": 3, "Drafter:m": 3}),
        ([target(64.0), drafter()], {"Target:m": 5, "Drafter:m": 5}),
        ([target(64.0, total_queued_requests=16.0)], {"Target:m": 7}),
        ([target(64.0, total_queued_requests=None)], {"Target:m": 5}),
        (
            [target(64.0, capacity_adjusted_max_replicas=4), drafter()],
            {"Target:m": 4, "Drafter:m": 4},
        ),
        ([target(0.0)], {"Target:m": 1}),
        ([FakeContext("Target:m"), drafter(0.0)], {"Target:m": 2, "Drafter:m": 2}),
        ([FakeContext("Ingress", target_num_replicas=3)], {"Ingress": 3}),
        ([FakeContext("Drafter:other", target_num_replicas=9)], {"Drafter:other": 8}),
        ([drafter(0.6)], {"Drafter:m": 2}),
        ([drafter(0.9)], {"Drafter:m": 5}),
        ([drafter(0.1)], {"Drafter:m": 1}),
        ([drafter(0.1, wait=0.05)], {"Drafter:m": 1}),
        ([drafter(0.3, wait=0.3)], {"Drafter:m": 2}),
        ([drafter(0.3, wait=1.5)], {"Drafter:m": 5}),
        ([target(), drafter(0.3, wait=0.5)], {"Target:m": 3, "Drafter:m": 8}),
        ([FakeContext("Drafter:m", {"busy": {"d1": 0.9}})], {"Drafter:m": 5}),
        ([target(64.0), FakeContext("Drafter:m")], {"Target:m": 5, "Drafter:m": 2}),
    ],
)
def test_decisions(contexts, counts):
    assert decide(*contexts) == counts


def test_a_context_it_cannot_read_leaves_the_pools_as_they_are():
    broken = target()
    broken.aggregated_metrics = {"demand_seats": {"r1": "many"}, "seats": {}}
    assert decide(broken, drafter()) == {"Target:m": 2, "Drafter:m": 2}


def test_of_targets_that_saw_nothing_yet_others_tell_what_they_can_do():
    def count(**seats: dict[str, float]) -> int:
        demand = {"demand_seats": {"r1": 40.0, "r2": 0.0}}
        return decide(FakeContext("Target:m", demand | seats))["Target:m"]

    expected = {"r1": 16.0, "r2": 2.0}
    assert count(expected_seats=expected, seats={"r1": 16.0}) == 4  # 40 of 12.8 each
    assert count(expected_seats=expected) == 6  # of 9 each
    assert count() == 2  # as it is


def test_a_target_reports_what_it_saw_where_it_saw_enough():
    assert target_stats(3.0, SeatCapacity(None, 16.0)) == {
        "demand_seats": 3.0,
        "expected_seats": 16.0,
    }
    assert target_stats(3.0, SeatCapacity(9.5, 16.0)) == {
        "demand_seats": 3.0,
        "expected_seats": 16.0,
        "seats": 9.5,
    }


def test_a_dip_is_not_followed_at_once():
    state: dict[str, Any] = {}
    for second in range(61):
        one = target(64.0, policy_state=state, current_time=float(second))
        counts, states = fleet_policy({"t": one})
        state = states["t"]
    assert counts == {"t": 5}
    dip = {"policy_state": state, "current_time": 61.0}
    assert fleet_policy({"t": target(48.0, **dip)})[0] == {"t": 5}
    assert fleet_policy({"t": target(10.0, **dip)})[0] == {"t": 2}


def test_a_rise_is_remembered_from_call_to_call():
    state: dict[str, Any] = {}
    for second in range(60):
        one = target(20.0 + second, policy_state=state, current_time=float(second))
        counts, states = fleet_policy({"t": one})
        state = states["t"]
    assert state["per_s"] > 0.5
    level, _ = fleet_policy({"t": target(79.0)})
    assert counts["t"] > level["t"]


def test_what_serve_itself_remembers_is_kept():
    kept = {"_serve": 3}
    _, states = fleet_policy({"t": target(policy_state=kept)})
    assert states["t"]["_serve"] == 3


def test_a_drafter_reports_how_busy_it_was_and_how_long_it_let_wait():
    before = ServerStats(batches=10, merged_steps=5, total_step_s=1.0, total_wait_s=0.5)
    now = ServerStats(batches=18, merged_steps=9, total_step_s=1.4, total_wait_s=0.9)
    found = drafter_stats(before, now, 0.8)
    assert found == {"busy": pytest.approx(0.5), "wait_steps": pytest.approx(0.5)}
    assert drafter_stats(now, now, 0.8) == {"busy": 0.0, "wait_steps": 0.0}
    assert drafter_stats(now, now, 0.0) == {"busy": 0.0, "wait_steps": 0.0}
