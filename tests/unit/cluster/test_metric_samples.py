"""What replicas report becomes samples of declared metrics, with their tags, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoscale.calibration import Calibration
from autoscale.class_counts import Latency
from autoscale.online_calibration import OnlineCalibration
from cluster.messages import IngressReport
from cluster.observability.metrics import METRICS, of_source
from cluster.observability.samples import (
    PoolSizes,
    drafter_samples,
    fleet_samples,
    ingress_samples,
    latency_samples,
    learning_samples,
    plan_samples,
    target_samples,
)
from profiles.provenance import DraftingPair
from tests.unit.cluster.reports import (
    attached_report,
    drafter_report,
    drafting_report,
    target_report,
)


def named(samples):
    """By name and values of own tags."""
    return {(name, *tags.values()): value for name, value, tags in samples}


def test_speculation_is_counted_as_the_worker_counts_it():
    told = named(target_samples(drafting_report()))
    assert told["dspark_draft_tokens",] == 3
    assert told["dspark_accepted_tokens",] == 1
    assert told["dspark_wasted_tokens",] == 2
    assert told["dspark_predicted_tokens",] == 1.5
    assert [told["dspark_position_admitted", str(k)] for k in range(1, 5)] == [1, 1, 1, 0]
    assert [told["dspark_position_reached", str(k)] for k in range(1, 5)] == [1, 1, 0, 0]
    assert [told["dspark_position_accepted", str(k)] for k in range(1, 5)] == [1, 0, 0, 0]
    assert [told["dspark_position_predicted", str(k)] for k in range(1, 5)] == [0.75, 0.5, 0.25, 0]
    assert told["dspark_unspeculated_requests", "seed"] == 2
    assert told["dspark_draft_round_trip_seconds",] == 0.004
    assert told["dspark_draft_deadline_misses",] == 2
    assert told["dspark_draft_failures", "unsent"] == 1
    assert told["dspark_draft_bytes", "out"] == 100


def test_a_budget_is_what_the_policy_goes_by():
    schedule = {
        "drafting": True,
        "verified_per_draft": 4.0,
        "drafted_share": 0.5,
        "plain_cost": {"relative_error": 0.1, "over_profile": 1.2},
        "drafted_cost": {"relative_error": 0.3, "over_profile": 1.1},
    }
    report = drafting_report()
    told = named(target_samples(replace(report, stats=report.stats | {"schedule": schedule})))
    assert (told["dspark_drafting",], told["dspark_verify_budget_tokens",]) == (True, 2.0)
    assert told["dspark_step_cost_error", "drafted"] == 0.3
    schedule["drafting"] = False
    told = named(target_samples(replace(report, stats=report.stats | {"schedule": schedule})))
    assert told["dspark_verify_budget_tokens",] == 0.0


def test_requests_are_counted_by_class_and_outcome():
    told = named(target_samples(target_report()))
    assert told["dspark_class_requests", "interactive", "arrived"] == 5
    assert told["dspark_class_requests", "interactive", "met"] == 3
    assert told["dspark_shed_requests", "interactive", "too_late"] == 2
    assert told["dspark_seats",] == 8
    assert told["dspark_waiting_requests",] == 3


def test_a_target_that_we_do_not_draft_for_says_nothing_of_drafts():
    names = {name for name, _, _ in target_samples(target_report())}
    assert names == {
        "dspark_running_requests",
        "dspark_waiting_requests",
        "dspark_unread_prompt_tokens",
        "dspark_seats",
        "dspark_class_requests",
        "dspark_shed_requests",
    }


def test_an_attached_engine_is_told_of_as_far_as_it_tells():
    told = named(target_samples(attached_report()))
    assert (told["dspark_attached_up",], told["dspark_attached_kv_usage",]) == (False, 0.5)
    assert (told["dspark_verified_drafts",], told["dspark_wasted_tokens",]) == (7, 10)
    assert ("dspark_steps",) not in told


def test_one_token_has_a_first_and_no_pace():
    told = list(latency_samples([Latency("a", 0.5, None), Latency("b", 0.25, 0.01)]))
    assert [(name, value, tags["service_class"]) for name, value, tags in told] == [
        ("dspark_ttft_seconds", 0.5, "a"),
        ("dspark_ttft_seconds", 0.25, "b"),
        ("dspark_tpot_seconds", 0.01, "b"),
    ]


def test_a_model_that_nobody_reports_for_has_no_targets():
    split = {"placement": "split", "drafter": None}
    load = {"arrivals_per_s": 2.0, "expected_arrivals_per_s": 3.0, "drafter_busy": None}
    load |= {"draft_wait_s": 0.004, "accepted_per_draft": 2.5}
    targets = [split, split | {"drafter": "d"}]
    fleet = {"models": {"m": {"targets": targets, "drafters": [{"canary": ""}], "load": load}}}
    configured = {"m": PoolSizes(2, 1), "gone": PoolSizes(1, 0)}
    told = named(fleet_samples(fleet, configured, {"flood": 4}))
    assert told == {
        ("dspark_controller_dropped_reports", "flood"): 4,
        ("dspark_fleet_targets", "m"): 2,
        ("dspark_fleet_drafters", "m"): 1,
        ("dspark_fleet_undrafted_targets", "m"): 1,
        ("dspark_fleet_missing_replicas", "m", "target"): 0,
        ("dspark_fleet_missing_replicas", "m", "drafter"): 0,
        ("dspark_fleet_arrivals_per_second", "m"): 2.0,
        ("dspark_fleet_expected_arrivals_per_second", "m"): 3.0,
        ("dspark_fleet_draft_wait_seconds", "m"): 0.004,
        ("dspark_fleet_accepted_per_draft", "m"): 2.5,
        ("dspark_fleet_targets", "gone"): 0,
        ("dspark_fleet_drafters", "gone"): 0,
        ("dspark_fleet_undrafted_targets", "gone"): 0,
        ("dspark_fleet_missing_replicas", "gone", "target"): 1,
        ("dspark_fleet_missing_replicas", "gone", "drafter"): 0,
    }


@pytest.mark.parametrize(
    ("configured", "missing"),
    [
        (PoolSizes(3, 2), {"target": 2, "drafter": 1}),
        (PoolSizes(1, 1), {"target": 0, "drafter": 0}),
        (PoolSizes(0, 0), {"target": 0, "drafter": 0}),  # more than the least where they scale
    ],
)
def test_replicas_that_are_missing_are_told_by_role_and_canaries_are_none(configured, missing):
    drafters = [{"canary": ""}, {"canary": "on trial"}]
    targets = [{"placement": "split", "drafter": "d"}]
    fleet = {"models": {"m": {"targets": targets, "drafters": drafters}}}
    told = named(fleet_samples(fleet, {"m": configured}, {}))
    assert missing == {
        role: told["dspark_fleet_missing_replicas", "m", role] for role in ("target", "drafter")
    }


def test_calibration_is_told_by_key_and_position():
    online = OnlineCalibration(Calibration((1.0,) * 3, version=2)).snapshot()
    online |= {"recent_ece": 0.05, "recent_ece_by_position": [0.01, 0.02, None]}
    pair = DraftingPair("m", "r" * 12, "d", "v" * 12)
    told = named(learning_samples(pair, {"calibration": {"greedy/0": online}}))
    of_key = ("m", "d", "v" * 12, "greedy/0")
    assert told == {
        ("dspark_calibration_version", *of_key): 2,
        ("dspark_calibration_ece", *of_key): 0.05,
        ("dspark_drift_alarm", *of_key): 0,
        ("dspark_calibration_position_ece", *of_key, "1"): 0.01,
        ("dspark_calibration_position_ece", *of_key, "2"): 0.02,
    }


HELD = {"age_s": 1.0, "is_stale": False, "outdated": 0, "refused": {"expected_requests": 1}}
EVERYTHING = {
    "target": lambda: [
        *target_samples(drafting_report()),
        *target_samples(attached_report()),
        *plan_samples(HELD, 1),
        *latency_samples([Latency("a", 0.1, 0.1)]),
        # What takes time to be known.
        *_late("dspark_step_seconds", "dspark_plan_apply_seconds"),
    ],
    "drafter": lambda: list(drafter_samples(drafter_report())),
    "ingress": lambda: list(ingress_samples(IngressReport("i", 1), {"too_late": 2}, {"no_key": 1})),
}


def _late(*names):
    report = drafting_report()
    known = {"mean_step_s": 0.01, "mean_plan_s": 0.001}
    samples = target_samples(replace(report, stats=report.stats | known))
    return [sample for sample in samples if sample.name in names]


@pytest.mark.parametrize("source", EVERYTHING)
def test_every_declared_metric_is_sampled_with_its_tags(source):
    declared = of_source(source)
    samples = EVERYTHING[source]()
    assert {sample.name for sample in samples} == declared.keys()
    for name, _, tags in samples:
        assert tuple(tags) == declared[name].tags, name


def test_names_are_declared_once():
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    for metric in METRICS:
        assert metric.name.startswith("dspark_")
        assert not metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(set(metric.buckets))
