import pytest

from cluster.controller import (
    EXPIRY_S,
    DrafterReport,
    FleetController,
    TargetReport,
    speculation_totals,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def fleet(clock):
    return FleetController(clock)


def target(name="t1", model="m", placement="split", **stats):
    return TargetReport(name, model, placement, 1, stats)


def drafter(name="d1", model="m"):
    return DrafterReport(name, model, f"tcp://{name}", 2)


def test_a_target_gets_a_drafter_of_its_model_and_both_the_secret(fleet):
    fleet.report_drafter(drafter("other", model="n"))
    secret = fleet.report_drafter(drafter()).secret
    plan = fleet.report_target(target())
    assert (plan.drafter_address, plan.secret) == ("tcp://d1", secret)


def test_without_drafters_the_plan_says_so(fleet):
    assert fleet.report_target(target()).drafter_address is None


def test_a_colocated_target_gets_none(fleet):
    fleet.report_drafter(drafter())
    assert fleet.report_target(target(placement="colocated")).drafter_address is None


def test_a_silent_drafter_is_replaced(fleet, clock):
    fleet.report_drafter(drafter("d1"))
    fleet.report_target(target())
    clock.now += EXPIRY_S + 0.1
    fleet.report_drafter(drafter("d2"))
    assert fleet.report_target(target()).drafter_address == "tcp://d2"


def test_a_restarted_controller_learns_from_the_next_reports(clock):
    fleet = FleetController(clock)
    fleet.report_target(target())
    fleet.report_drafter(drafter())
    assert fleet.report_target(target()).drafter_address == "tcp://d1"


def test_a_policy_set_while_serving_is_in_every_later_plan(fleet):
    assert fleet.report_target(target()).policy is None
    fleet.set_policy("m", {"kind": "off"})
    assert fleet.report_target(target()).policy == {"kind": "off"}
    assert fleet.report_target(target("t2", model="n")).policy is None


def test_a_policy_for_a_model_that_does_not_draft_is_refused(fleet):
    fleet.report_target(target(placement="off"))
    for model in ("m", "nobody"):
        with pytest.raises(KeyError):
            fleet.set_policy(model, {"kind": "off"})


def test_snapshot_sums_per_model_and_forgets_the_silent(fleet, clock):
    fleet.report_drafter(drafter())
    fleet.report_target(target("gone", verified_drafts=5, accepted_tokens=5))
    clock.now += EXPIRY_S - 0.5
    fleet.report_target(
        target(
            "t1", verified_drafts=10, draft_tokens=70, accepted_tokens=25, ineligible={"seed": 2}
        )
    )
    clock.now += 1
    model = fleet.snapshot()["models"]["m"]
    assert [t["replica_id"] for t in model["targets"]] == ["t1"]
    assert model["drafters"] == []
    assert model["speculation"] == {
        "committed_tokens": 0,
        "verified_drafts": 10,
        "draft_tokens": 70,
        "accepted_tokens": 25,
        "acceptance_length": 3.5,
        "without_speculation": {"seed": 2},
    }


def test_acceptance_length_is_unknown_before_the_first_draft():
    assert speculation_totals([{}])["acceptance_length"] is None
