"""The simulated fleet: nothing is lost, nothing is made up, the same seed is the same run."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from autoscale.plan import ReplicaPlan
from autoscale.policy_settings import make_policy
from autoscale.service_class import ServiceClass
from autoscale.simulation.costs import SimulatedCosts
from autoscale.simulation.fleet import Arm, Faults, FleetShape, SimulatedFleet
from autoscale.simulation.replica import EngineLimits
from autoscale.simulation.texts import draw_texts
from autoscale.simulation.traces import Arrival, TraceShape, draw_trace
from autoscale.step_cost import StepCostTable

COSTS = SimulatedCosts(StepCostTable((1, 64, 1024), (0.010, 0.011, 0.100)), {1: 0.001, 32: 0.002})


def draft_texts(**settings):
    return draw_texts(np.random.default_rng(0), 512, 7, **settings)


TEXTS = draft_texts()
CLASSES = (ServiceClass("latency", 1.0, 0.02), ServiceClass("batch", 10.0, 0.5))
PATIENT = tuple(replace(one, ttft_s=math.inf) for one in CLASSES)
FOREVER_S = 100.0


def arm(kind="causal", plan_fields=(), **settings):
    return Arm(kind, partial(make_policy, {"kind": kind, **settings}), frozenset(plan_fields))


def fleet(some_arm, classes=CLASSES, texts=TEXTS, **shape):
    shape = FleetShape(**{"num_replicas": 2, "jitter": 0.0} | shape)
    return SimulatedFleet(some_arm, shape, COSTS, texts, classes, 0)


def run(some_arm, trace, duration_s=FOREVER_S, **fleet_settings):
    return fleet(some_arm, **fleet_settings).run(trace, duration_s)


def trace_of(rate_per_s, duration_s=10.0, seed=0):
    rng = np.random.default_rng(seed)
    return draw_trace(
        rng,
        TraceShape(prompt_tokens=60, output_tokens=40),
        rate_per_s=rate_per_s,
        duration_s=duration_s,
        classes=("latency", "batch"),
    )


def test_one_request_without_drafts_takes_its_steps():
    outcome = run(arm("off"), [Arrival(1.0, 64, 11, "batch")], num_replicas=2)
    (served,) = outcome.served
    assert served.first_token_s == pytest.approx(1.0 + COSTS.step_s(64, 1, 0))
    decode_s = sum(COSTS.step_s(1, 1, 64 + i) for i in range(1, 11))
    assert served.finished_s - served.first_token_s == pytest.approx(decode_s)
    assert outcome.committed_tokens == 11


def test_fixed_drafts_commit_what_the_text_accepts():
    outcome = run(arm("fixed", k=3), [Arrival(0.0, 8, 100, "batch", text=5)])
    position, steps = 1, 1  # the prompt's step makes the first token
    while position < 100:
        room = min(3, 100 - position - 1)
        position += 1 + min(room, int(TEXTS.would_accept[5, position]))
        steps += 1
    assert sum(totals.steps for totals in outcome.totals) == steps
    assert outcome.committed_tokens == 100


def test_an_output_longer_than_its_text_is_served_to_its_end():
    outcome = run(arm("fixed", k=7), [Arrival(0.0, 9000, 1500, "batch", text=5)])
    assert outcome.committed_tokens == 1500
    at = np.array([3, 3 + TEXTS.would_accept.shape[1]])
    assert len(set(TEXTS.would_accept_at(TEXTS.places(TEXTS.first_place(5), at)).tolist())) == 1


@pytest.mark.parametrize("kind", ["off", "causal", "lookahead"])
def test_every_token_of_every_request_is_served_once(kind):
    trace = trace_of(20.0)
    outcome = run(arm(kind), trace, classes=PATIENT)
    assert all(one.finished_s is not None for one in outcome.served)
    assert outcome.committed_tokens == sum(one.output_tokens for one in trace)


@pytest.mark.parametrize("loss_s", [5.0, 5.03, 5.06, 5.09, 5.12, 5.15, 5.18, 5.21])
def test_a_lost_replica_loses_no_request(loss_s):
    """Whatever it is doing at that moment."""
    trace = trace_of(40.0)
    faults = Faults(loss_at=loss_s / FOREVER_S)
    outcome = run(arm("off"), trace, faults=faults, classes=PATIENT)
    assert all(one.finished_s is not None for one in outcome.served)
    assert outcome.totals[1].steps < outcome.totals[0].steps


def test_the_same_seed_is_the_same_run_and_arms_share_the_traffic():
    trace = trace_of(30.0)
    first, second = (run(arm(), trace, jitter=0.05) for _ in range(2))
    assert [one.finished_s for one in first.served] == [one.finished_s for one in second.served]


def test_drafting_is_faster_where_steps_are_flat():
    trace = trace_of(10.0)
    plain, drafted = (run(some, trace) for some in (arm("off"), arm()))
    mean = [np.mean([one.tpot_s for one in o.served if one.tpot_s]) for o in (plain, drafted)]
    assert mean[1] < 0.6 * mean[0]


def test_a_request_that_waited_past_its_promise_is_refused():
    limits = EngineLimits(seats=1)
    trace = [Arrival(0.001 * i, 8, 400, "latency") for i in range(6)]
    outcome = run(arm("off"), trace, limits=limits, num_replicas=1)
    assert sum(one.was_shed for one in outcome.served) == 5


def test_a_replica_that_comes_late_serves_nothing_before():
    trace = trace_of(20.0)
    late = Faults(late_replicas=1, late_at=0.06)
    outcome = run(arm("off"), trace, faults=late, classes=PATIENT)
    assert 0 < outcome.totals[1].steps < outcome.totals[0].steps


def test_a_saturated_drafter_makes_targets_wait():
    trace = trace_of(40.0)
    beside, shared = (run(arm("fixed", k=7), trace, num_drafters=n) for n in (0, 1))
    mean = [np.mean([one.tpot_s for one in o.served if one.tpot_s]) for o in (beside, shared)]
    assert mean[1] > mean[0]


def test_a_lost_drafter_costs_what_waiting_for_it_costs():
    trace = trace_of(10.0)
    lost = {"num_drafters": 1, "faults": Faults(drafter_loss_at=0.0), "deadline_s": 0.05}
    off, fixed = (run(some, trace, **lost) for some in (arm("off"), arm("fixed", k=3)))
    took_s = [sum(one.tpot_s for one in outcome.served) for outcome in (off, fixed)]
    assert 1.01 * took_s[0] < took_s[1] < 1.2 * took_s[0]
    assert drafts_of_replicas(fixed) == [0, 0]


def drafts_of_replicas(outcome):
    return [totals.drafts for totals in outcome.totals]


def test_targets_of_a_lost_drafter_draft_on_with_another_where_the_plan_says_so():
    trace = trace_of(20.0)
    lost = {"num_drafters": 2, "faults": Faults(drafter_loss_at=0.02)}
    alone, planned = (
        drafts_of_replicas(run(arm("fixed", fields, k=3), trace, **lost))
        for fields in ((), ("drafter",))
    )
    assert alone[0] < 0.3 * alone[1]  # two of ten seconds
    assert planned[0] > 0.7 * planned[1]


def test_confidences_that_err_are_calibrated_where_the_plan_says_so():
    too_sure = draft_texts(overconfidence=0.6)

    def temperatures(*fields):
        running = fleet(arm(plan_fields=fields), texts=too_sure, confidences_err=True)
        running.run(trace_of(20.0, duration_s=40.0), 40.0)
        return [
            one.temperatures for one in running.replicas[0].drafts.replica.calibrations.values()
        ]

    assert temperatures() == []
    ((first, *_),) = temperatures("calibrations")
    assert first > 1.2


def test_a_replica_that_comes_late_starts_from_what_the_fleet_knows_where_the_plan_says_so():
    trace = trace_of(30.0, duration_s=20.0)
    late = Faults(late_replicas=1, late_at=0.5)

    def first_cost_s(*fields):
        running = fleet(arm(plan_fields=fields), faults=late)
        running.start(trace, 20.0)
        running.advance(10.0)  # the very moment
        return running.replicas[1].policy.learned().table.at_one(64)

    told_s = COSTS.told.at_one(64)
    assert first_cost_s() == pytest.approx(told_s / 2)
    assert first_cost_s("step_cost") == pytest.approx(told_s, rel=0.1)


def test_an_arm_follows_its_fields_of_a_plan_alone():
    plan = ReplicaPlan(expected_requests=3.0, class_weights={"latency": 1.5})
    assert arm(plan_fields=("class_weights",)).advice(plan) == ReplicaPlan(
        class_weights={"latency": 1.5}
    )
    assert arm().advice(plan) == ReplicaPlan()


def test_padding_makes_the_cost_a_staircase():
    jagged = SimulatedCosts(COSTS.table, {}, padding=8)
    assert jagged.step_s(1, 1, 0) == jagged.step_s(8, 1, 0) < jagged.step_s(9, 1, 0)


def test_texts_are_calibrated_unless_told_otherwise():
    assert TEXTS.survival_ece < 0.02
    too_sure = draft_texts(overconfidence=0.6)
    assert too_sure.survival_ece > 0.05
    assert (too_sure.would_accept == TEXTS.would_accept).all()


def test_accepted_prefixes_happen_as_often_as_confidences_say():
    expected = np.cumprod(TEXTS.confidences, axis=2).sum(axis=2).mean()
    assert TEXTS.would_accept.mean() == pytest.approx(expected, rel=0.03)
