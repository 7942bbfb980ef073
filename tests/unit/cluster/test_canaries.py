"""The controller's part in a canary: orders, calibration by version, the verdict, a restart."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from autoscale.canary import ArmTotals, CanaryRule
from cluster.controller import EXPIRY_S, TICK_S, FleetController
from cluster.fleet_bench import target_reports
from cluster.messages import DrafterReport, TargetReport
from profiles.provenance import DraftingPair

PAIR = DraftingPair("target", "a1", "old", "v1")
NEW = replace(PAIR, drafter_id="new", drafter_version="v2")
NAME = "new:v2"
ON_TRIAL = DrafterReport("d-new", "m", "tcp://new", 2, canary=NAME, drafter=("new", "v2"))


class Learned:
    """Stands for `FleetLearning`: calibrations of the new pair alone, `ece` of both, each of two
    keys."""

    ece = 0.02
    ece_error = 0.001

    def plan(self, pair):
        return {"greedy/0": {"version": 5}} if pair == NEW else {}

    def snapshot(self, pair):
        one = {"excess_ece": self.ece, "ece_error": self.ece_error, "recent_labels": 1000}
        return {"calibration": {"greedy/0": one, "q/0": one, "q/1": {"excess_ece": None}}}


@pytest.fixture
def fleet(clock):
    fleet = FleetController(clock, Learned())
    join(fleet, DrafterReport("d-old", "m", "tcp://old", 1))
    fleet.report_target(target())
    return fleet


def join(fleet, report):
    secret = fleet.report_drafter(report).secret
    fleet.report_drafter(replace(report, secret=secret))


def join_new(fleet):
    join(fleet, ON_TRIAL)


def target(canary=None, **fields):
    (report,) = target_reports(1)
    stats = {"canary": canary} if canary else {}
    return replace(report, pair=PAIR, stats=stats, **fields)


def counted(accepted, share=0.5, num_requests=400, *, is_promoted=False):
    """What a replica has counted: requests of 20 steps, the serving drafter's accepting 2."""
    arms = {"serving": ArmTotals(), "canary": ArmTotals()}
    for name, mean in (("serving", 2.0), ("canary", accepted)):
        for i in range(num_requests):
            arms[name].end(20, round(20 * mean) + i % 3)
            arms[name].waited(0.004)
    order = {"name": NAME, "share": share, "is_promoted": is_promoted}
    return order | {name: asdict(arm) for name, arm in arms.items()}


def shown(fleet):
    return fleet.snapshot()["models"]["m"]["canary"]


def start(fleet, share=0.05, name=NAME, rule=None):
    fleet.start_canary("m", name, share, rule or CanaryRule())


def test_until_its_drafter_is_up_nothing_is_tried(fleet):
    start(fleet)
    assert fleet.report_target(target()).canary is None
    join_new(fleet)
    plan = fleet.report_target(target())
    assert plan.canary == {
        "name": NAME,
        "address": "tcp://new",
        "key": None,
        "share": 0.05,
        "is_promoted": False,
        "calibrations": {"greedy/0": {"version": 5}},
    }
    assert plan.drafter_address == "tcp://old"
    assert plan.calibrations == {}


def test_a_drafter_on_trial_serves_nobody_else(fleet):
    join_new(fleet)
    fleet.report_target(replace(target(), replica_id="another"))  # an even share would be one each
    for name in ("t0", "another"):
        plan = fleet.report_target(replace(target(), replica_id=name))
        assert (plan.drafter_address, plan.canary) == ("tcp://old", None)


def test_outcomes_of_the_canary_belong_to_its_own_pair(fleet):
    start(fleet)
    join_new(fleet)
    assert fleet.canary_pair(target()) == NEW


def test_what_is_learned_of_the_new_pair_is_shown_beside_the_serving_ones(fleet):
    def learned():
        return [one["drafter_id"] for one in fleet.snapshot()["models"]["m"]["learned"]]

    start(fleet)
    assert learned() == ["old"]
    join_new(fleet)
    assert learned() == ["old", "new"]


def test_calibration_is_judged_with_its_interval(clock):
    for error, decision in ((0.001, "promote"), (0.02, "wait")):
        learned = Learned()
        learned.ece_error = error
        fleet = FleetController(clock, learned)
        join(fleet, DrafterReport("d-old", "m", "tcp://old", 1))
        fleet.report_target(target())
        start(fleet)
        join_new(fleet)
        live(fleet, clock, 2, canary=counted(2.5))
        assert shown(fleet)["decision"] == decision
        error /= 2**0.5  # of two keys
        expected = [0.02, max(0.0, 0.02 - 3 * error), 0.02 + 3 * error]
        assert shown(fleet)["canary"]["ece"] == [round(one, 4) for one in expected]


@pytest.mark.parametrize(
    ("accepted", "decision", "share"), [(2.5, "promote", 1.0), (1.0, "roll back", 0.0)]
)
def test_a_verdict_moves_the_share(fleet, clock, accepted, decision, share):
    start(fleet)
    join_new(fleet)
    fleet.report_target(target(counted(accepted)))
    clock.now += TICK_S
    fleet.report_target(target(counted(accepted)))
    assert (shown(fleet)["decision"], shown(fleet)["share"]) == (decision, share)
    order = fleet.report_target(target()).canary
    assert (order["share"] if order else 0.0) == share


def test_counts_of_another_canary_decide_nothing(fleet, clock):
    start(fleet)
    join_new(fleet)
    clock.now += TICK_S
    fleet.report_target(target(counted(1.0) | {"name": "one before"}))
    assert shown(fleet)["decision"] == "wait"


def test_stopping_gives_the_sessions_back(fleet):
    start(fleet)
    join_new(fleet)
    assert fleet.stop_canary("m")
    assert fleet.report_target(target()).canary is None
    assert not fleet.stop_canary("n")


def test_stopping_what_was_rolled_back_leaves_its_reason(fleet, clock):
    start(fleet)
    join_new(fleet)
    clock.now += TICK_S
    fleet.report_target(target(counted(1.0)))
    assert fleet.stop_canary("m")
    assert shown(fleet)["why"].startswith("slower")


def live(fleet, clock, seconds, *, drafts=lambda second: True, canary=None):
    """One report of a target a second, and of the new drafter in those where it drafts."""
    for second in range(seconds):
        clock.now += 1.0
        secret = fleet.report_target(target(canary)).secret
        if drafts(second):
            fleet.report_drafter(replace(ON_TRIAL, secret=secret))


def test_a_drafter_that_never_comes_is_given_up(fleet, clock):
    start(fleet)
    live(fleet, clock, 299, drafts=lambda second: False)
    assert (shown(fleet)["decision"], shown(fleet)["why"]) == (
        "wait",
        "none of its replicas is there",
    )
    live(fleet, clock, 2, drafts=lambda second: False)
    assert shown(fleet)["decision"] == "roll back"
    assert "none of its replicas was there for 300 s" in shown(fleet)["why"]


def test_one_that_dies_for_good_is_given_up_though_it_was_counted(fleet, clock):
    start(fleet)
    live(fleet, clock, 10, canary=counted(2.0, num_requests=5))
    live(fleet, clock, 310, drafts=lambda second: False)
    assert shown(fleet)["decision"] == "roll back"
    assert shown(fleet)["canary"]["requests"] == 5


def test_one_that_crashes_again_and_again_is_given_up(fleet, clock):
    start(fleet)
    live(fleet, clock, 40, drafts=lambda second: second % 20 < 5)
    assert shown(fleet)["decision"] == "wait"
    live(fleet, clock, 20, drafts=lambda second: second % 20 < 5)
    assert shown(fleet)["why"] == "its replicas crash: 3 were lost; see their logs"


def test_patience_ends_a_trial_that_counts_nothing(fleet, clock):
    start(fleet, rule=CanaryRule(patience_s=60.0))
    live(fleet, clock, 60)
    assert shown(fleet)["decision"] == "wait"
    live(fleet, clock, 1)
    assert shown(fleet)["why"] == ("nothing was proven in 60 s: 0 of 50 of its requests have ended")


def test_when_a_promoted_drafter_dies_the_old_one_drafts_again(fleet, clock):
    start(fleet)
    join_new(fleet)
    for _ in range(2):
        clock.now += TICK_S
        fleet.report_target(target(counted(2.5)))
    assert fleet.report_target(target()).canary["share"] == 1.0
    clock.now += EXPIRY_S + 0.1
    join(fleet, DrafterReport("d-old", "m", "tcp://old", 1))
    plan = fleet.report_target(target())
    assert (plan.drafter_address, plan.canary) == ("tcp://old", None)


def test_a_new_controller_goes_on_with_what_was_promoted_and_not_with_a_trial(clock):
    for is_promoted, share in ((True, 1.0), (False, 1.0), (False, 0.05)):
        fleet = FleetController(clock, Learned())
        report = target(counted(2.5, share=share, is_promoted=is_promoted))
        fleet.report_target(report)
        join_new(fleet)
        order = fleet.report_target(report).canary
        assert (order is not None and order["is_promoted"]) is is_promoted


def test_replicas_of_a_canary_are_kept_while_it_is_on_trial_or_promoted(fleet, clock):
    assert fleet.kept_canaries() is None  # a target may still tell of one
    live(fleet, clock, 30)
    assert fleet.kept_canaries() == set()
    start(fleet)
    assert fleet.kept_canaries() == {"m"}
    live(fleet, clock, 2, canary=counted(2.5))
    assert shown(fleet)["decision"] == "promote"
    assert fleet.kept_canaries() == {"m"}
    fleet.stop_canary("m")
    assert fleet.kept_canaries() == set()


def test_a_promotion_is_kept_through_a_restart_and_a_trial_is_not(clock):
    for is_promoted, kept in ((True, {"m"}), (False, set())):
        fleet = FleetController(clock, Learned())
        live(fleet, clock, 30, canary=counted(2.5, is_promoted=is_promoted))
        assert fleet.kept_canaries() == kept


def test_a_trial_ends_also_where_no_target_reports(fleet, clock):
    start(fleet, rule=CanaryRule(patience_s=60.0))
    for _ in range(7):
        clock.now += 10.0
        fleet.kept_canaries()
    join_new(fleet)
    assert shown(fleet)["decision"] == "roll back"


def test_one_canary_at_a_time(fleet):
    start(fleet)
    with pytest.raises(ValueError, match="on trial"):
        start(fleet, name="another:v9")
    fleet.stop_canary("m")
    start(fleet, name="another:v9")


def test_a_share_that_is_none_and_a_model_without_drafters_are_refused(fleet):
    with pytest.raises(ValueError, match="share is 2"):
        start(fleet, share=2)
    fleet.report_target(TargetReport("c", "n", "colocated", 1))
    with pytest.raises(KeyError):
        fleet.start_canary("n", NAME, 0.05, CanaryRule())
