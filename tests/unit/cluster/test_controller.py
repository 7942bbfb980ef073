from dataclasses import asdict, replace

import pytest

from autoscale.controls import Controls
from autoscale.fleet_load import ReplicaLoad
from autoscale.plan import NO_PLAN
from autoscale.quota import Books, Usage
from autoscale.service_class import ServiceClass
from cluster.controller import (
    EXPIRY_S,
    INGRESS_GONE_S,
    MAX_INGRESSES,
    MAX_REPLICAS,
    MIN_INTERVAL_S,
    TICK_S,
    FleetController,
)
from cluster.fleet_view import speculation_totals
from cluster.held_plan import HeldPlan
from cluster.messages import DrafterReport, IngressPlan, IngressReport, TargetReport
from cluster.pace import SHORTEST_S, interval_s, lifetime_s
from cluster.presence import AWAY_S
from cluster.step_cost_learning import StepCostLearning
from profiles.provenance import DraftingPair
from profiles.step_cost import EngineProvenance


@pytest.fixture
def fleet(clock):
    return FleetController(clock)


def target(name="t1", model="m", placement="split", **stats):
    return TargetReport(name, model, placement, 1, stats)


def drafter(name="d1", model="m"):
    return DrafterReport(name, model, f"tcp://{name}", 2)


def join(fleet, report):
    """As a drafter does: with its first report it gets the secret, with the second it is in."""
    secret = fleet.report_drafter(report).secret
    return fleet.report_drafter(replace(report, secret=secret))


def test_a_drafter_is_given_to_nobody_until_it_has_the_secret(fleet):
    fleet.report_drafter(drafter())
    assert fleet.report_target(target()).drafter_address is None
    fleet.report_drafter(replace(drafter(), secret="of another controller"))
    assert fleet.report_target(target()).drafter_address is None
    join(fleet, drafter())
    assert fleet.report_target(target()).drafter_address == "tcp://d1"
    (shown,) = fleet.snapshot()["models"]["m"]["drafters"]
    assert "secret" not in shown


def test_a_target_gets_a_drafter_of_its_model_and_both_the_secret(fleet):
    join(fleet, drafter("other", model="n"))
    secret = join(fleet, drafter()).secret
    plan = fleet.report_target(target())
    assert (plan.drafter_address, plan.secret) == ("tcp://d1", secret)


def test_without_drafters_the_plan_says_so(fleet):
    assert fleet.report_target(target()).drafter_address is None


def test_a_colocated_target_gets_none(fleet):
    join(fleet, drafter())
    assert fleet.report_target(target(placement="colocated")).drafter_address is None


def test_a_silent_drafter_is_replaced(fleet, clock):
    join(fleet, drafter("d1"))
    fleet.report_target(target())
    clock.now += EXPIRY_S + 0.1
    join(fleet, drafter("d2"))
    assert fleet.report_target(target()).drafter_address == "tcp://d2"


def test_a_restarted_controller_learns_from_the_next_reports(clock):
    fleet = FleetController(clock)
    fleet.report_target(target())
    join(fleet, drafter())
    assert fleet.report_target(target()).drafter_address == "tcp://d1"


def test_a_change_is_in_every_later_plan_of_its_model(fleet):
    assert fleet.report_target(target()).controls == Controls()
    fleet.change("m", {"policy": {"kind": "fixed", "k": 3}})
    fleet.change("m", {"deadline_ms": 20, "speculation": False})
    controls = fleet.report_target(target("t2")).controls
    assert controls.policy == {"kind": "fixed", "k": 3}
    assert (controls.deadline_ms, controls.speculation) == (20, False)
    assert fleet.report_target(target("t3", model="n")).controls == Controls()
    fleet.change("m", {"policy": None, "speculation": None})
    assert fleet.report_target(target()).controls == Controls(deadline_ms=20)


def test_a_change_of_a_model_that_does_not_draft_is_refused(fleet):
    fleet.report_target(target(placement="off"))
    for model in ("m", "nobody"):
        with pytest.raises(KeyError):
            fleet.change(model, {"speculation": False})


def test_of_vllms_own_verification_what_can_be_steered_is_changed(fleet):
    fleet.report_target(target("plain", model="n", placement="native"))
    with pytest.raises(KeyError):
        fleet.change("n", {"verify_budget_tokens": 8})
    fleet.report_target(target(placement="native", steered=True))
    fleet.change("m", {"verify_budget_tokens": 8, "policy": None})
    plan = fleet.report_target(target(placement="native", steered=True))
    assert plan.controls == Controls(verify_budget_tokens=8)
    with pytest.raises(ValueError, match="max_draft_tokens: vLLM drafts"):
        fleet.change("m", {"max_draft_tokens": 3})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"speculatoin": False}, "speculatoin"),
        ({"policy": {"kind": "psychic"}}, "policy"),
        ({"deadline_ms": 0}, "deadline_ms"),
        ({"max_draft_tokens": -1}, "max_draft_tokens"),
        ({"drafter_address": "localhost"}, "drafter_address"),
    ],
)
def test_a_change_that_cannot_be_is_refused_by_name(fleet, change, named):
    fleet.report_target(target())
    with pytest.raises(ValueError, match=named):
        fleet.change("m", change)


def test_a_new_controller_learns_of_changes_from_the_targets(fleet):
    plan = fleet.report_target(target(controls={"speculation": False}))
    assert plan.controls == Controls(speculation=False)


@pytest.mark.parametrize("controls", [{"not_yet_known": 1}, {"deadline_ms": -1}, ["speculation"]])
def test_changes_that_cannot_be_are_counted_and_their_target_gets_its_plan(fleet, controls):
    join(fleet, drafter())
    plan = fleet.report_target(target(controls=controls))
    assert (plan.drafter_address, plan.controls) == ("tcp://d1", Controls())
    assert fleet.num_impossible_controls == 1


def test_a_replica_that_knows_of_no_change_takes_none_back(fleet):
    fleet.report_target(target("fresh"))
    plan = fleet.report_target(target("old", controls={"speculation": False}))
    assert plan.controls == Controls(speculation=False)
    assert fleet.report_target(target("fresh")).controls == Controls(speculation=False)


@pytest.mark.parametrize("change", [{"deadline_ms": 5}, {"drafter_address": "tcp://d:1"}])
def test_what_only_drafter_replicas_have_is_refused_for_a_colocated_model(fleet, change):
    fleet.report_target(target(placement="colocated"))
    with pytest.raises(ValueError, match="split alone"):
        fleet.change("m", change)
    fleet.change("m", dict.fromkeys(change))


def test_an_address_set_by_hand_is_everybodys_and_brings_its_key(fleet):
    join(fleet, drafter("d1"))
    join(fleet, DrafterReport("d2", "m", "tcp://d2:1", 2, public_key="key"))
    fleet.report_target(target())
    fleet.change("m", {"drafter_address": "tcp://d2:1"})
    plan = fleet.report_target(target())
    assert (plan.drafter_address, plan.drafter_key) == ("tcp://d2:1", "key")
    fleet.change("m", {"drafter_address": "tcp://elsewhere:2"})
    plan = fleet.report_target(target())
    assert (plan.drafter_address, plan.drafter_key) == ("tcp://elsewhere:2", None)


def test_an_address_set_by_hand_waits_for_the_secret_to_get_there(fleet):
    fleet.report_target(target())
    one = replace(drafter(), address="tcp://d1:1")
    fleet.change("m", {"drafter_address": "tcp://d1:1"})
    fleet.report_drafter(replace(one, secret="of the controller before"))
    assert fleet.report_target(target()).drafter_address is None
    join(fleet, one)
    assert fleet.report_target(target()).drafter_address == "tcp://d1:1"


def test_snapshot_sums_per_model_and_forgets_the_silent(fleet, clock):
    join(fleet, drafter())
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


PAIR = DraftingPair("target", "a1", "drafter", "b2")


class Learned:
    """Stands for `FleetLearning`: something is known of `PAIR` alone."""

    def plan(self, pair):
        return {"greedy/0": {"version": 2}} if pair == PAIR else {}

    def snapshot(self, pair):
        return {"acceptance": {"collapsed": True}} if pair == PAIR else {}


def test_what_is_learned_of_a_pair_is_in_its_targets_plans_and_shown(clock):
    fleet = FleetController(clock, Learned())
    known = replace(target(), pair=PAIR, outcomes={"greedy/0": {}})
    assert fleet.report_target(known).calibrations == {"greedy/0": {"version": 2}}
    assert fleet.report_target(target("t2", model="n")).calibrations == {}
    models = fleet.snapshot()["models"]
    (learned,) = models["m"]["learned"]
    assert learned["drafter_version"] == "b2"
    assert learned["acceptance"] == {"collapsed": True}
    assert models["n"]["learned"] == []
    assert "outcomes" not in models["m"]["targets"][0]


class LearnedCosts(StepCostLearning):
    def plan(self, engine):
        return {"version": 3}


def test_a_model_that_goes_without_a_plan_gets_its_drafter_and_nothing_that_was_learned(clock):
    fleet = FleetController(clock, Learned(), LearnedCosts())
    engine = EngineProvenance("cpu", "demo", "rev", "float32", "tp1", "vllm", "0.29.0", "1 thread")
    new = {"pair": PAIR, "engine": engine, "wants_step_cost": True}
    join(fleet, drafter())
    fleet.report_target(replace(loaded(), **new))
    clock.now += TICK_S
    for change in (False, None):
        fleet.change("m", {"plan": change})
        plan = fleet.report_target(replace(loaded(), **new))
        (shown,) = fleet.snapshot()["models"]["m"]["targets"]
        assert plan.drafter_address == "tcp://d1"
        assert plan.controls.plan is change
        assert (plan.advice == NO_PLAN) is (change is False)
        assert (shown["plan"] == asdict(NO_PLAN)) is (change is False)
        assert plan.calibrations == ({} if change is False else {"greedy/0": {"version": 2}})
        assert plan.step_cost == (None if change is False else {"version": 3})


def test_what_became_of_lost_targets_is_summed_over_all_ingresses_there_were(fleet, clock):
    fleet.report_ingress(IngressReport("i1", 7, continued=2, restarted=1))
    fleet.report_ingress(IngressReport("i1", 7, continued=3, restarted=1))
    clock.now += EXPIRY_S + 1
    fleet.report_ingress(IngressReport("i2", 8, continued=1, given_up=1))
    assert fleet.snapshot()["lost_targets"] == {
        "continued": 4,
        "restarted": 1,
        "given_up": 1,
        "ingresses": [{"replica_id": "i2", "pid": 8}],
    }


def test_usage_is_of_all_ingresses_there_were_but_the_one_that_asks(fleet, clock):
    def books(requests: int) -> Books:
        return {"key": ("acme", Usage(requests))}

    fleet.report_ingress(IngressReport("i1", 7, usage=books(1)))
    fleet.report_ingress(IngressReport("i1", 7, usage=books(2)))
    clock.now += EXPIRY_S + 1
    fleet.report_ingress(IngressReport("i2", 8, usage=books(10)))
    assert fleet.usage_elsewhere("i2") == books(2)
    assert fleet.usage_elsewhere("i3") == books(12)


def test_targets_hear_of_ingresses_that_are_gone_for_good(clock):
    fleet = FleetController(clock, away_s=AWAY_S)

    def told(seconds: float, *ingresses: str) -> tuple[str, ...]:
        """What a target hears after so long, in which these reported."""
        for _ in range(round(2 * seconds)):
            clock.now += 0.5
            for name in ingresses:
                fleet.report_ingress(IngressReport(name, 7))
            plan = fleet.report_target(target())
        return plan.gone_ingresses

    assert told(2, "i1", "i2") == ()
    assert told(INGRESS_GONE_S - 1, "i2") == ()
    assert told(2, "i2") == ("i1",)
    assert told(1, "i1", "i2") == ()  # it was only paused
    clock.now += 100.0  # the controller was
    assert told(0.5) == ()
    assert told(2, "i1", "i2") == ()


LOAD = ReplicaLoad(
    running=4,
    waiting=0,
    seats=8,
    prefill_tokens=0,
    arrivals_per_s=1.0,
    prompt_tokens_per_s=100.0,
    tokens_per_s=200.0,
    relative_step_cost=1.0,
    step_s=0.02,
    num_drafts=1000,
    accepted_tokens=2000,
    draft_wait_s=0.01,
)


def loaded(name="t1", model="m", **load):
    return replace(target(name, model), load=replace(LOAD, **load))


def test_a_plan_follows_from_the_loads_of_all_replicas(clock):
    fleet = FleetController(clock, classes={"m": (ServiceClass("latency", 1.0, 0.05),)})
    fleet.report_target(loaded("t1", running=8, waiting=8))
    fleet.report_target(loaded("t2", running=0))
    clock.now += TICK_S
    advice = fleet.report_target(loaded("t2", running=0)).advice
    assert advice.expected_requests == 4  # half of what an even share of 16 would be
    assert advice.expected_prefill_tokens == 2.0
    assert advice.class_weights == {"latency": 1.0}
    assert fleet.snapshot()["models"]["m"]["load"]["running"] == 8


def test_arrivals_are_expected_by_their_trend_and_acceptance_is_of_late(clock):
    fleet = FleetController(clock)
    for second in range(121):
        drafts, accepted = 100 * second, 300 * second if second > 60 else 0
        counts = {"num_drafts": drafts, "accepted_tokens": accepted}
        fleet.report_target(loaded(arrivals_per_s=100.0 + second, **counts))
        clock.now += 1.0
        fleet.tick()
    load = fleet.snapshot()["models"]["m"]["load"]
    assert load["arrivals_per_s"] == 220.0
    assert 240 < load["expected_arrivals_per_s"] < 260  # 30 s ahead, as it is smoothed over 30 s
    assert 2.5 < load["accepted_per_draft"] < 6.0
    for _ in range(300):
        clock.now += 1.0
        fleet.report_target(loaded(arrivals_per_s=50.0, num_drafts=12_000, accepted_tokens=36_000))
    load = fleet.snapshot()["models"]["m"]["load"]
    assert load["expected_arrivals_per_s"] == pytest.approx(50.0, abs=0.1)
    assert load["accepted_per_draft"] is None  # nothing was drafted lately


def drafters_by_target(fleet, clock, wanted, seconds):
    """After so long under such a load, drafts per second by target."""
    secret = fleet.report_drafter(drafter("another", model="n")).secret
    for _ in range(2 * seconds):
        for name in ("d1", "d2"):
            fleet.report_drafter(replace(drafter(name), secret=secret))
        told = {
            name: told_whom(fleet, loaded(name, drafts_per_s=load)) for name, load in wanted.items()
        }
        clock.now += SHORTEST_S
    return told


def test_drafters_are_balanced_by_the_drafts_that_targets_want(fleet, clock):
    alike = dict.fromkeys(("t1", "t2", "t3", "t4"), 100.0)
    even = {"t1": "tcp://d1", "t2": "tcp://d2", "t3": "tcp://d1", "t4": "tcp://d2"}
    assert drafters_by_target(fleet, clock, alike, 20) == even
    noisy = {"t1": 108.0, "t2": 93.0, "t3": 105.0, "t4": 96.0}
    assert drafters_by_target(fleet, clock, noisy, 60) == even
    skewed = alike | {"t1": 500.0}
    assert drafters_by_target(fleet, clock, skewed, 60) == even | {"t3": "tcp://d2"}


def test_models_are_planned_apart(fleet, clock):
    fleet.report_target(loaded("t1", running=8))
    fleet.report_target(loaded("t2", model="n", running=0))
    clock.now += TICK_S
    assert fleet.report_target(loaded("t2", model="n", running=0)).advice.expected_requests == 0


def test_plans_are_numbered_within_the_controllers_epoch(clock):
    fleet = FleetController(clock, epoch=17)
    plans = [fleet.report_target(target()) for _ in range(3)]
    assert [(plan.epoch, plan.seq) for plan in plans] == [(17, 1), (17, 2), (17, 3)]


@pytest.mark.parametrize("clock_went_s", [-3600, 0, 3600])
def test_a_new_controllers_plans_are_taken_whatever_the_clock_did_in_between(clock, clock_went_s):
    """Its epoch is the time at which it began."""
    earlier = FleetController(clock, epoch=10_000 * 10**9)
    held = HeldPlan(clock)
    assert held.take(earlier.report_target(target()))
    later = FleetController(clock, epoch=(10_000 + clock_went_s) * 10**9 + 1, settle_s=1.0)
    clock.now += 0.1
    assert held.take(later.report_target(replace(target(), held_plan=held.snapshot())))
    assert not held.take(earlier.report_target(target()))


def test_once_it_has_settled_a_controller_stays_below_one_that_began_later(clock):
    fleet = FleetController(clock, epoch=5, settle_s=1.0)
    clock.now += 1.0
    later = replace(target(), held_plan={"epoch": 9})
    assert fleet.report_target(later).epoch == 5


def test_a_load_that_cannot_be_is_counted_and_moves_nobodys_plan(fleet, clock):
    fleet.report_target(loaded("t1"))
    for nonsense in (float("nan"), -1, 1e300):
        fleet.report_target(loaded(f"t{nonsense}", running=nonsense))
    clock.now += TICK_S
    assert fleet.report_target(loaded("t1")).advice.expected_requests == 4
    assert fleet.snapshot()["controller"]["impossible_loads"] == 3


def test_a_new_controller_leaves_targets_with_their_drafters(clock):
    fleet = FleetController(clock, settle_s=1.0)
    # As an even share by name would not have it, and the drafters report one after the other.
    asked = {"t1": "tcp://d2", "t2": "tcp://d1"}
    reports = {name: replace(target(name), drafter_address=one) for name, one in asked.items()}
    join(fleet, drafter("d2"))
    for report in reports.values():
        assert fleet.report_target(report).drafter_address is None
    clock.now += 0.5
    join(fleet, drafter("d1"))
    clock.now += 0.6
    found = {name: fleet.report_target(report).drafter_address for name, report in reports.items()}
    assert found == asked


def paired(clock):
    """A fleet that is not split evenly by name, and what each target asks in it."""
    fleet = FleetController(clock, away_s=AWAY_S)
    drafters = [drafter("d1"), drafter("d2")]
    for one in drafters:
        join(fleet, one)
    asked = {"t1": "tcp://d2", "t2": "tcp://d1", "t3": "tcp://d2", "t4": "tcp://d1"}
    targets = [replace(target(name), drafter_address=one) for name, one in asked.items()]
    for one in targets:
        fleet.report_target(one)
    assert {one.replica_id: told_whom(fleet, one) for one in targets} == asked
    return fleet, drafters, targets, asked


def told_whom(fleet, report):
    return fleet.report_target(report).drafter_address


@pytest.mark.parametrize("asked_meanwhile", [False, True])
def test_a_controller_that_was_away_forgets_nobody_and_moves_nobody(clock, asked_meanwhile):
    fleet, drafters, targets, asked = paired(clock)
    clock.now += EXPIRY_S + 1
    if asked_meanwhile:  # by its keeper, or a client
        fleet.snapshot()
    assert {one.replica_id: told_whom(fleet, one) for one in targets} == asked
    for one in drafters:
        join(fleet, one)
    clock.now += TICK_S
    assert {one.replica_id: told_whom(fleet, one) for one in targets} == asked


def test_who_died_while_the_controller_was_away_is_missed_a_lifetime_later(clock):
    fleet, (_, living), targets, _ = paired(clock)
    clock.now += EXPIRY_S + 1
    for _ in range(8):
        join(fleet, living)
        told = {told_whom(fleet, one) for one in targets}
        clock.now += SHORTEST_S
    assert told == {"tcp://d2"}


def test_a_large_fleet_reports_more_seldom_and_is_remembered_longer(fleet, clock):
    def all_report():
        plans = [fleet.report_target(target(f"t{i}", placement="off")) for i in range(1199)]
        return [*plans, fleet.report_ingress(IngressReport("i1", 7))]

    assert {plan.interval_s for plan in all_report()} == {SHORTEST_S}
    for _ in range(3):
        clock.now += TICK_S
        plans = all_report()
    assert {plan.interval_s for plan in plans} == {interval_s(1200)} == {2.0}
    assert plans[0].ttl_s == lifetime_s(2.0) == 12.0
    assert plans[-1] == IngressPlan(2.0)
    assert fleet.report_drafter(drafter()).interval_s == SHORTEST_S  # it has just come
    assert fleet.report_drafter(drafter()).interval_s == 2.0
    clock.now += 11.5
    fleet.report_target(target("t0", placement="off"))
    assert len(fleet.target_ids()) == 1199
    clock.now += 1.0
    fleet.report_target(target("t0", placement="off"))
    assert fleet.target_ids() == {"t0"}


def test_names_that_are_heard_once_slow_nobody_down_and_are_soon_forgotten(fleet, clock):
    for second in range(4):
        for i in range(1000):
            fleet.report_target(target(f"nobody-{second}-{i}", placement="off"))
        clock.now += 1.0
        assert fleet.report_target(target("t1")).interval_s == SHORTEST_S
    clock.now += EXPIRY_S
    fleet.report_target(target("t1"))
    assert fleet.target_ids() == {"t1"}


def test_who_was_told_to_report_seldom_is_awaited_when_the_fleet_has_shrunk(fleet, clock):
    fleet.report_target(replace(target("t1"), interval_s=10.0))
    clock.now += 59.0
    fleet.report_target(target("t2"))
    assert fleet.target_ids() == {"t1", "t2"}
    clock.now += 1.5
    fleet.report_target(target("t2"))
    assert fleet.target_ids() == {"t2"}


def test_a_new_controller_of_a_large_fleet_waits_until_all_have_reported(clock):
    fleet = FleetController(clock, settle_s=1.0)
    join(fleet, drafter("d1"))
    asked = replace(target("t1"), drafter_address="tcp://d2", interval_s=2.0)
    for waited_s in (0.0, 1.9, 1.9):
        clock.now += waited_s
        assert told_whom(fleet, asked) is None
        join(fleet, drafter("d1"))
    join(fleet, drafter("d2"))
    clock.now += 0.2
    assert told_whom(fleet, asked) == "tcp://d2"


def test_what_is_dropped_teaches_nothing(clock):
    taken = []
    fleet = FleetController(clock, on_taken=lambda report: taken.append(report.replica_id))
    for i in range(MAX_REPLICAS + 5):
        fleet.report_target(target(f"t{i}", placement="off"))
    fleet.report_target(target("t0", placement="off"))
    assert taken == [f"t{i}" for i in range(MAX_REPLICAS)]


def test_a_flood_from_one_replica_is_answered_and_counted(fleet, clock):
    fleet.report_target(loaded("t1", running=4))
    for _ in range(100):
        plan = fleet.report_target(loaded("t1", running=7))
    assert plan.seq == 101
    assert fleet.snapshot()["controller"]["dropped_reports"] == 100
    assert fleet.snapshot()["models"]["m"]["load"]["running"] == 4
    clock.now += 2 * MIN_INTERVAL_S
    fleet.report_target(loaded("t1", running=7))
    assert fleet.snapshot()["models"]["m"]["load"]["running"] == 7


def test_a_flood_of_replicas_is_bounded(fleet):
    for i in range(MAX_REPLICAS + 5):
        fleet.report_target(target(f"t{i}", placement="off"))
        fleet.report_drafter(drafter(f"d{i}"))
    assert len(fleet.snapshot()["models"]["m"]["targets"]) == MAX_REPLICAS
    assert len(fleet.snapshot()["models"]["m"]["drafters"]) == MAX_REPLICAS
    assert fleet.num_dropped_reports == 10


def test_a_drafter_that_floods_moves_nobody(fleet, clock):
    secret = fleet.report_drafter(drafter("d1")).secret
    for port in range(100):
        fleet.report_drafter(replace(drafter("d1"), secret=secret, address=f"tcp://d1:{port}"))
    (shown,) = fleet.snapshot()["models"]["m"]["drafters"]
    assert shown["address"] == "tcp://d1:0"
    assert fleet.num_dropped_reports == 99
    clock.now += 2 * MIN_INTERVAL_S
    fleet.report_drafter(replace(drafter("d1"), secret=secret, address="tcp://d1:7"))
    (shown,) = fleet.snapshot()["models"]["m"]["drafters"]
    assert shown["address"] == "tcp://d1:7"


def test_of_ingresses_the_last_ones_are_kept(fleet, clock):
    for i in range(MAX_INGRESSES + 5):
        clock.now += 0.001
        fleet.report_ingress(IngressReport(f"i{i}", 7, continued=1))
    assert fleet.snapshot()["lost_targets"]["continued"] == MAX_INGRESSES


def test_who_falls_silent_is_forgotten_with_its_plan(fleet, clock):
    fleet.report_target(loaded("t1", running=8, waiting=32))
    clock.now += EXPIRY_S + 0.1
    fleet.report_target(loaded("t2", running=0))
    clock.now += TICK_S
    assert fleet.report_target(loaded("t2", running=0)).advice.expected_requests == 0
    assert fleet.target_ids() == {"t2"}


def test_before_the_first_tick_there_is_no_advice(fleet):
    fleet.report_target(loaded("t1"))
    assert fleet.report_target(loaded("t2")).advice == NO_PLAN
