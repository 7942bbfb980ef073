"""Calibration kept right while it serves: replicas, their reports, the controller, drift."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from synthetic_drafts import GAMMA, TRUE, admit_causally, draw

from autoscale.calibration import Calibration, scaled
from autoscale.calibration_messages import (
    calibrations_from_plain,
    calibrations_to_plain,
    report_from_plain,
    report_to_plain,
)
from autoscale.draft_sample import DraftSample, priorities
from autoscale.drift import DriftAlarm, SurvivalCounts
from autoscale.exploration import explores, request_seed
from autoscale.fleet_calibration import FleetCalibration
from autoscale.online_calibration import OnlineCalibration, Refit, compare
from autoscale.replica_calibration import ReplicaCalibration, VerifiedDrafts
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey
from profiles.provenance import DraftingPair
from profiles.reliability import average, errors_by_position

PAIR = DraftingPair("demo", "a1", "demo-drafter", "b2")
KEY = CalibrationKey("q", "0.4-0.8")
INDEX = CALIBRATION_KEYS.index(KEY)
DRAFTS_PER_STEP = 16
STEPS_PER_REPORT = 32


class Fleet:
    """Replicas that serve synthetic drafts, exchange with a controller, and adopt its plan."""

    def __init__(self, serving: Calibration, num_replicas: int = 2) -> None:
        self.rng = np.random.default_rng(0)
        self.controller = FleetCalibration()
        self.replicas = [ReplicaCalibration(GAMMA) for _ in range(num_replicas)]
        for replica in self.replicas:
            replica.adopt({KEY: serving})
        self.seeds = np.array([request_seed(f"request-{i}") for i in range(2000)], dtype=np.uint64)
        self.now_s = 0.0
        self.step = 0

    def serve(self, true_temperatures: Sequence[float], num_reports: int) -> None:
        """Rounds of steps under the causal schedule, then a report and a refit each."""
        for _ in range(num_reports):
            for replica in self.replicas:
                for _ in range(STEPS_PER_REPORT):
                    self._serve_step(replica, true_temperatures)
                report = report_from_plain(report_to_plain(replica.take_report()))
                self.controller.absorb(PAIR, report)
            self.controller.refit()
            self.now_s += 5.0
            plan = calibrations_to_plain(self.controller.serving(PAIR))
            for replica in self.replicas:
                replica.adopt(calibrations_from_plain(plan))

    def _serve_step(self, replica: ReplicaCalibration, true_temperatures: Sequence[float]) -> None:
        self.step += 1
        drafts = draw(self.rng, DRAFTS_PER_STEP, true_temperatures)
        keys = np.full(DRAFTS_PER_STEP, INDEX)
        seeds = self.rng.choice(self.seeds, DRAFTS_PER_STEP)
        admitted = admit_causally(replica.apply(drafts.confidences, keys), self.rng)
        admitted = np.where(
            explores(seeds, range(self.step, self.step + 1), 0.02)[0], GAMMA, admitted
        )
        accepted = np.minimum(drafts.would_accept, admitted)
        verified = VerifiedDrafts(keys, seeds, drafts.confidences, admitted, accepted)
        replica.record(verified, self.step, self.now_s)

    @property
    def serving(self) -> Calibration:
        return self.controller.serving(PAIR)[KEY]

    @property
    def alarm(self) -> bool:
        return bool(self.controller.snapshot(PAIR)[str(KEY)]["drift_alarm"])


def true_ece(calibration: Calibration, true_temperatures: Sequence[float]) -> float:
    """Of survival, over drafts that no scheduler chose, averaged over positions."""
    drafts = draw(np.random.default_rng(99), 50_000, true_temperatures)
    confidences = scaled(drafts.confidences, 1 / np.array(calibration.temperatures))
    survival = np.cumprod(confidences, axis=1)
    return average(errors_by_position(survival, drafts.all_admitted, drafts.would_accept)).ece


def test_drift_fires_the_alarm_is_refitted_away_and_clears():
    """Mid-stream the drafter becomes overconfident: its true temperatures double."""
    drifted = [2 * t for t in TRUE]
    fleet = Fleet(Calibration(TRUE, version=1))

    fleet.serve(TRUE, 30)
    assert not fleet.alarm
    assert true_ece(fleet.serving, TRUE) < 0.01
    before = fleet.serving
    assert true_ece(before, drifted) > 0.06

    fired = cleared = None
    for report in range(40):
        fleet.serve(drifted, 1)
        if fired is None and fleet.alarm:
            fired = report
        if fired is not None and cleared is None and not fleet.alarm:
            cleared = report
    assert fired is not None
    assert fired < 15
    assert cleared is not None
    assert not fleet.alarm
    assert fleet.serving.version > before.version
    assert true_ece(fleet.serving, drifted) < 0.02


def test_without_drift_versions_hardly_change_and_no_alarm_fires():
    fleet = Fleet(Calibration(TRUE, version=5))
    for _ in range(40):
        fleet.serve(TRUE, 1)
        assert not fleet.alarm
    assert fleet.serving.version <= 6
    assert true_ece(fleet.serving, TRUE) < 0.01


def test_a_fleet_that_starts_uncalibrated_calibrates_itself():
    fleet = Fleet(Calibration.identity(GAMMA))
    assert true_ece(Calibration.identity(GAMMA), TRUE) > 0.03
    fleet.serve(TRUE, 20)
    assert true_ece(fleet.serving, TRUE) < 0.015


def sample(num_drafts: int, seed: int, temperatures: Sequence[float] = TRUE) -> DraftSample:
    rng = np.random.default_rng(seed)
    drafts = draw(rng, num_drafts, temperatures)
    return DraftSample(
        priorities(rng.random(num_drafts), 0.0),
        drafts.confidences.astype(np.float32),
        drafts.all_admitted,
        drafts.would_accept,
        rng.random(num_drafts) < 0.5,
    )


NO_SURVIVAL = SurvivalCounts(GAMMA)
CONFIDENT = (0.6,) * GAMMA


def test_temperatures_that_only_the_fit_half_believes_in_are_not_adopted():
    """As after one request has flooded its half with an odd text."""
    odd, usual = sample(20_000, 0, CONFIDENT), sample(20_000, 1)
    online = OnlineCalibration(Calibration(TRUE, version=1))
    for half in odd.half(held_out=False), usual.half(held_out=True):
        online.absorb(half, NO_SURVIVAL, 1)
    assert online.refit() is Refit.KEPT
    assert online.serving == Calibration(TRUE, version=1)


@pytest.mark.parametrize("num_fitted", [20_000, 100])
def test_a_calibration_that_held_out_outcomes_speak_against_is_rolled_back(num_fitted):
    """Whether the fit half still believes in what serves, or is too small to be fitted."""
    online = OnlineCalibration(Calibration(TRUE, version=1))
    online.learn(Calibration(CONFIDENT, version=2))
    odd, usual = sample(num_fitted, 2, CONFIDENT), sample(20_000, 3)
    for half in odd.half(held_out=False), usual.half(held_out=True):
        online.absorb(half, NO_SURVIVAL, 2)
    assert online.refit() is Refit.ROLLED_BACK
    assert online.serving == Calibration(TRUE, version=3)


def test_better_temperatures_are_adopted_under_the_next_version():
    online = OnlineCalibration(Calibration.identity(GAMMA))
    online.absorb(sample(30_000, 4), NO_SURVIVAL, 0)
    assert online.refit() is Refit.ADOPTED
    assert online.serving.version == 1
    assert true_ece(online.serving, TRUE) < 0.01


def test_nothing_is_refitted_on_few_or_old_drafts():
    online = OnlineCalibration(Calibration.identity(GAMMA))
    online.absorb(sample(1_999, 5), NO_SURVIVAL, 0)
    assert online.refit() is Refit.KEPT
    online.absorb(sample(30_000, 6), NO_SURVIVAL, 0)
    assert online.refit() is Refit.ADOPTED
    serving = online.serving
    online.absorb(sample(499, 7, CONFIDENT), NO_SURVIVAL, 1)
    assert online.refit() is Refit.KEPT
    assert online.serving is serving


def test_a_comparison_knows_its_noise():
    drafts = sample(20_000, 8)
    truth, worse = Calibration(TRUE), Calibration(CONFIDENT)
    assert compare(truth, worse, drafts).is_better
    assert not compare(worse, truth, drafts).is_better
    assert compare(truth, truth, drafts) == (0.0, 0.0)
    near = Calibration(tuple(1.001 * t for t in TRUE))
    assert not compare(near, truth, drafts).is_better


def counts(num_drafts: int, believed: Sequence[float], seed: int = 0) -> SurvivalCounts:
    drafts = draw(np.random.default_rng(seed), num_drafts)
    confidences = scaled(drafts.confidences, 1 / np.array(believed))
    counted = SurvivalCounts(GAMMA)
    counted.add(np.cumprod(confidences, axis=1), drafts.all_admitted, drafts.would_accept)
    return counted


def test_the_alarm_needs_enough_labels():
    alarm = DriftAlarm(GAMMA)
    alarm.observe(counts(1_599, CONFIDENT))  # 7,995 labels
    assert not alarm.active
    alarm.observe(counts(1_599, CONFIDENT, seed=1))
    assert alarm.active


def test_the_alarm_fires_and_clears_at_different_errors():
    """An error between the two leaves it as it is."""
    between = [1.15 * t for t in TRUE]
    error = counts(50_000, between)
    assert 0.015 < error.ece - error.expected_noise < 0.03
    quiet, loud = DriftAlarm(GAMMA), DriftAlarm(GAMMA)
    loud.observe(counts(20_000, CONFIDENT))
    assert loud.active
    for seed in range(5):
        for alarm in (quiet, loud):
            alarm.observe(counts(20_000, between, seed))
    assert not quiet.active
    assert loud.active
    for seed in range(5):
        loud.observe(counts(20_000, TRUE, seed))
    assert not loud.active


def test_noise_alone_does_not_fire_it():
    for seed in range(50):
        alarm = DriftAlarm(GAMMA)
        alarm.observe(counts(1_650, TRUE, seed))
        assert not alarm.active


def test_the_window_of_survival_forgets():
    alarm = DriftAlarm(GAMMA)
    alarm.observe(counts(20_000, TRUE))
    alarm.observe(counts(3_200, TRUE, seed=1))  # 16,000 labels: half of before weighs on
    assert alarm.window.num_labels == pytest.approx(100_000 / 2 + 16_000)


def test_survival_counts_add_up_in_any_order():
    a, b = counts(100, TRUE, 0), counts(50, TRUE, 1)
    ab, ba = counts(100, TRUE, 0), counts(50, TRUE, 1)
    ab.merge(b)
    ba.merge(a)
    for name, added in ab.to_plain().items():
        assert added == pytest.approx(ba.to_plain()[name])
    assert ab.num_labels == 150 * GAMMA


def test_survival_is_counted_only_where_it_was_admitted():
    counted = SurvivalCounts(3)
    counted.add(np.array([[0.95, 0.55, 0.25]]), np.array([2]), np.array([1]))
    assert counted.labels.sum(axis=1).tolist() == [1, 1, 0]
    assert counted.survived.sum(axis=1).tolist() == [1, 0, 0]
    assert counted.predicted[1, 5] == 0.55
    assert counted.ece == pytest.approx((0.05 + 0.55) / 2)
    assert counted.ece_by_position()[:2] == pytest.approx([0.05, 0.55])
    assert np.isnan(counted.ece_by_position()[2])
    assert counted.ece_error == pytest.approx((np.sqrt(0.95 * 0.05) + np.sqrt(0.55 * 0.45)) / 2)


@pytest.mark.parametrize("believed", [TRUE, CONFIDENT], ids=["calibrated", "confident"])
def test_the_error_of_the_ece_is_rather_too_large_than_too_small(believed):
    """Of 400 samples, whose labels hang together within a draft."""
    samples = [counts(300, believed, seed) for seed in range(400)]
    spread = np.std([one.ece for one in samples])
    claimed = np.mean([one.ece_error for one in samples])
    assert spread < claimed < 4 * spread


def test_labels_that_fade_do_not_make_the_ece_look_surer():
    faded, fresh = counts(100, TRUE), counts(100, TRUE)
    faded.fade(0.5)
    assert faded.ece_error == pytest.approx(fresh.ece_error)
    sent = SurvivalCounts.from_plain(fresh.to_plain(), GAMMA)
    assert sent.ece_error == fresh.ece_error
    faded.merge(fresh)
    alone = fresh.ece_error
    fresh.merge(counts(100, TRUE))  # twice the labels at full weight
    assert fresh.ece_error == pytest.approx(alone / np.sqrt(2))
    assert faded.ece_error == pytest.approx(alone * np.sqrt(1.25) / 1.5)


def verified(num_drafts: int, keys: Sequence[int], seed: int = 0) -> VerifiedDrafts:
    rng = np.random.default_rng(seed)
    drafts = draw(rng, num_drafts)
    seeds = rng.integers(0, 2**63, num_drafts).astype(np.uint64)
    return VerifiedDrafts(
        np.array(keys), seeds, drafts.confidences, drafts.all_admitted, drafts.would_accept
    )


def test_a_replica_reports_by_key_and_once():
    replica = ReplicaCalibration(GAMMA)
    other = CALIBRATION_KEYS[0]
    replica.record(verified(6, [INDEX, 0, INDEX, INDEX, 0, INDEX]), 1, 0.0)
    report = replica.take_report()
    assert {key: len(one.drafts) for key, one in report.items()} == {KEY: 4, other: 2}
    assert {key: one.survival.num_labels for key, one in report.items()} == {
        KEY: 4 * GAMMA,
        other: 2 * GAMMA,
    }
    assert replica.take_report() == {}


def test_a_busy_replica_reports_a_sample_of_its_drafts_and_all_of_its_counts():
    replica = ReplicaCalibration(GAMMA)
    for step in range(40):
        replica.record(verified(16, [INDEX] * 16, step), step, 0.0)
    one = replica.take_report()[KEY]
    assert len(one.drafts) == 512
    assert one.survival.num_labels == 640 * GAMMA


def test_adopting_keeps_drafts_and_drops_what_the_old_temperatures_predicted():
    replica = ReplicaCalibration(GAMMA)
    replica.record(verified(4, [INDEX] * 4), 1, 0.0)
    replica.adopt({KEY: Calibration(TRUE, version=1)})
    replica.record(verified(2, [INDEX] * 2, seed=1), 2, 0.0)
    one = replica.take_report()[KEY]
    assert one.serving.version == 1
    assert len(one.drafts) == 6
    assert one.survival.num_labels == 2 * GAMMA


def test_a_replica_adopts_what_is_later_and_keeps_what_the_plan_does_not_name():
    replica = ReplicaCalibration(GAMMA)
    other = CALIBRATION_KEYS[0]
    mine = {KEY: Calibration(TRUE, version=4), other: Calibration(TRUE, version=1)}
    replica.adopt(mine)
    replica.adopt({KEY: Calibration(CONFIDENT, version=3)})  # of a controller that began anew
    assert replica.calibrations == mine
    replica.adopt({KEY: Calibration(CONFIDENT, version=5)})
    assert replica.calibrations == mine | {KEY: Calibration(CONFIDENT, version=5)}
    confidences = np.full((2, GAMMA), 0.9)
    calibrated = replica.apply(confidences, np.array([INDEX, 3]))
    assert (calibrated[0] > 0.9).all()
    assert calibrated[1] == pytest.approx(confidences[1])


def test_a_replica_that_goes_back_keeps_nothing_that_it_adopted():
    replica = ReplicaCalibration(GAMMA)
    replica.adopt({KEY: Calibration(TRUE, version=4), CALIBRATION_KEYS[0]: Calibration(TRUE, 1)})
    replica.record(verified(4, [INDEX] * 4), 1, 0.0)
    start = {KEY: Calibration(CONFIDENT, version=0)}
    replica.go_back_to(start)
    assert replica.calibrations == start
    assert replica.take_report()[KEY].survival.num_labels == 0  # as others predicted it
    replica.go_back_to({})
    assert replica.apply(np.full((1, GAMMA), 0.9), np.array([INDEX]))[0] == pytest.approx(0.9)
    replica.adopt({KEY: Calibration(TRUE, version=4)})
    assert replica.calibrations[KEY].version == 4


@pytest.mark.parametrize("versions", [(9, 0), (0, 9)])
def test_a_controller_that_starts_anew_learns_the_latest_version_from_its_replicas(versions):
    """One of them has not been reached by the last plan; whichever reports first."""
    controller = FleetCalibration()
    for version in versions:
        replica = ReplicaCalibration(GAMMA)
        if version:
            replica.adopt({KEY: Calibration(TRUE, version=9)})
        replica.record(verified(4, [INDEX] * 4), 1, 0.0)
        controller.absorb(PAIR, replica.take_report())
    assert controller.serving(PAIR) == {KEY: Calibration(TRUE, version=9)}


def test_survival_that_an_earlier_version_predicted_does_not_count():
    online = OnlineCalibration(Calibration(TRUE, version=2))
    for version, alarm in ((1, False), (2, True)):
        online.absorb(DraftSample.empty(GAMMA), counts(20_000, CONFIDENT), version)
        assert online.alarm.active is alarm


def test_pairs_do_not_mix():
    controller = FleetCalibration()
    replica = ReplicaCalibration(GAMMA)
    replica.record(verified(4, [INDEX] * 4), 1, 0.0)
    controller.absorb(PAIR, replica.take_report())
    assert controller.serving(DraftingPair("demo", "a1", "demo-drafter", "b3")) == {}


def test_replicas_of_different_block_sizes_are_refused():
    controller = FleetCalibration()
    replica, other = ReplicaCalibration(GAMMA), ReplicaCalibration(2)
    replica.record(verified(1, [INDEX]), 1, 0.0)
    controller.absorb(PAIR, replica.take_report())
    drafts = verified(1, [INDEX])
    other.record(drafts._replace(confidences=drafts.confidences[:, :2]), 1, 0.0)
    with pytest.raises(ValueError, match=r"reports 2 positions for q/0\.4-0\.8, others 5"):
        controller.absorb(PAIR, other.take_report())


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"q/0.4-0.8": {}}, "malformed"),
        ({"dense/0": {"version": 1, "temperatures": [1.0]}}, "'dense/0' is not a calib"),
        ({"q/0.4-0.8": {"version": 1, "temperatures": [1.0, -2.0]}}, "have to be in"),
        ({"q/0.4-0.8": {"version": 1, "temperatures": []}}, "have to be in"),
        ({"q/0.4-0.8": {"temperatures": [1.0]}}, "malformed"),
    ],
)
def test_malformed_calibrations_are_refused(plain, message):
    with pytest.raises(ValueError, match=message):
        calibrations_from_plain(plain)


@pytest.mark.parametrize(
    ("part", "value", "message"),
    [
        ("serving", None, "malformed"),
        ("drafts", {}, "malformed"),
        ("survival", {}, "labels has to be a list of 50 numbers"),
        ("survival", {"labels": [-1.0] * 50}, "of 0 or more"),
        ("survival", [], "malformed"),
    ],
)
def test_malformed_reports_are_refused(part, value, message):
    replica = ReplicaCalibration(GAMMA)
    replica.record(verified(3, [INDEX] * 3), 1, 0.0)
    plain = report_to_plain(replica.take_report())
    plain[str(KEY)][part] = value
    with pytest.raises(ValueError, match=message):
        report_from_plain(plain)
