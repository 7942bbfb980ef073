"""What the controller learns from replicas' outcomes, and what outlives it."""

from __future__ import annotations

import errno
import logging
import time
from functools import partial

import numpy as np
import pytest

from autoscale.calibration import Calibration
from autoscale.calibration_messages import calibrations_from_plain, report_to_plain
from autoscale.draft_sample import MEMORY_S
from autoscale.replica_calibration import ReplicaCalibration, VerifiedDrafts
from cluster.fleet_learning import FleetLearning
from cluster.learning_thread import LearningThread
from cluster.observability.samples import learning_samples
from profiles.calibration import load_calibration
from profiles.calibration_key import CALIBRATION_KEYS
from profiles.provenance import DraftingPair

GAMMA = 3
PAIR = DraftingPair("demo-target", "a" * 12, "demo-drafter", "b" * 12)
KEY = CALIBRATION_KEYS[0]


def outcomes(num_drafts, rate, claimed=0.85, serving=None, seed=0):
    """A replica's report: each tried token was accepted with `rate`."""
    rng = np.random.default_rng(seed)
    replica = ReplicaCalibration(GAMMA)
    if serving is not None:
        replica.adopt({KEY: serving})
    for step in range(-(-num_drafts // 400)):
        n = 400
        confidences = np.clip(rng.normal(claimed, 0.05, (n, GAMMA)), 0.05, 0.99)
        accepted = (rng.random((n, GAMMA)) < rate).cumprod(axis=1).sum(axis=1)
        keys = np.zeros(n, dtype=np.int64)
        seeds = rng.integers(0, 2**63, n).astype(np.uint64)
        drafts = VerifiedDrafts(keys, seeds, confidences, np.full(n, GAMMA), accepted)
        replica.record(drafts, step, 0.0)
    return report_to_plain(replica.take_report())


def learn(learning, num_reports=14, **kwargs):
    """The alarm goes on with the eighth report, and what was sampled before is dropped."""
    for seed in range(num_reports):
        learning.absorb(PAIR, outcomes(400, seed=seed, **kwargs))
    learning.refit()


def test_overconfident_drafts_change_the_plan():
    learning = FleetLearning()
    assert learning.plan(PAIR) == {}
    learn(learning, rate=0.65)
    served = calibrations_from_plain(learning.plan(PAIR))[KEY]
    assert served.version == 1
    assert min(served.temperatures) > 2  # sigmoid(1.7 / t) is to be 0.65
    shown = learning.snapshot(PAIR)["calibration"][str(KEY)]
    assert (shown["version"], shown["sampled_drafts"]) == (1, 2400)


def test_a_new_controller_goes_on_from_the_directory(tmp_path):
    first = FleetLearning(tmp_path)
    learn(first, rate=0.65)
    again = FleetLearning(tmp_path)
    assert again.plan(PAIR) == first.plan(PAIR)
    (path,) = tmp_path.glob("*.parquet")
    profile = load_calibration(path, PAIR)  # it is a profile as `drafter.calibration` takes it
    (position, *_) = profile.entries[KEY]
    assert profile.version == 1
    assert position.after.ece < 0.06 < position.before.ece
    assert position.num_labels + position.after.num_labels == 2400


def test_what_did_not_change_is_not_written(tmp_path):
    learning = FleetLearning(tmp_path)
    learn(learning, num_reports=2, rate=0.65)  # too few to fit
    assert list(tmp_path.iterdir()) == []


def test_a_new_controller_remembers_a_collapse_and_what_was_usual(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    now = [0.0]
    first = FleetLearning(tmp_path, clock=lambda: now[0])
    learn(first, rate=0.8)
    learn(first, rate=0.1)
    assert first.snapshot(PAIR)["acceptance"]["collapsed"]
    assert not list(tmp_path.glob("*.json"))  # not more often than each minute
    now[0] = 60.0
    first.refit()
    again = FleetLearning(tmp_path)
    again.absorb(PAIR, {})  # nothing is drafted, as it does not pay
    again.refit()
    shown = again.snapshot(PAIR)["acceptance"]
    assert shown["collapsed"]
    assert shown["expected_by"] == "what was usual before"
    assert shown["expected_rate"] > 0.6
    (path,) = tmp_path.glob("*.json")
    path.write_text("{")
    learn(FleetLearning(tmp_path), num_reports=1, rate=0.8)
    assert f"{path}: what acceptance was usual is not used" in caplog.text


def test_a_damaged_file_is_left_aside_and_named(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (tmp_path / "x.calibration.parquet").write_bytes(b"not a profile")
    learning = FleetLearning(tmp_path)
    assert learning.plan(PAIR) == {}
    assert "x.calibration.parquet" in caplog.text


def test_a_directory_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    taken = tmp_path / "file"
    taken.touch()
    learning = FleetLearning(taken / "below")
    learn(learning, rate=0.65)
    assert calibrations_from_plain(learning.plan(PAIR))[KEY].version == 1
    assert "cannot be kept" in caplog.text


def test_a_full_disk_costs_the_file_until_there_is_room_again(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    learning = FleetLearning(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr("profiles.parquet.pq.write_table", full)
        learn(learning, rate=0.65)
        learning.refit()
    assert calibrations_from_plain(learning.plan(PAIR))[KEY].version == 1
    assert caplog.text.count("cannot be kept") == 1
    assert list(tmp_path.iterdir()) == []
    learning.refit()  # nothing new, and room
    assert FleetLearning(tmp_path).plan(PAIR) == learning.plan(PAIR)
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    learning.refit()
    assert path.stat().st_mtime_ns == written


def full(*args, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_controller_that_begins_anew_learns_from_what_replicas_serve():
    learning = FleetLearning()
    learning.absorb(PAIR, outcomes(400, 0.8, serving=Calibration((2.0,) * GAMMA, version=7)))
    assert calibrations_from_plain(learning.plan(PAIR))[KEY].version == 7


def test_a_report_that_cannot_be_is_dropped_and_counted():
    learning = FleetLearning()
    learning.absorb(PAIR, {"greedy/0": {"serving": None}})
    assert learning.num_malformed_reports == 1
    assert learning.plan(PAIR) == {}


def test_a_collapse_is_said_once_with_its_mend_and_shown(caplog):
    caplog.set_level(logging.WARNING)
    published = {}
    learning = FleetLearning(publish=published.__setitem__)
    learn(learning, rate=0.2)
    said = [r.getMessage() for r in caplog.records if "draft tokens tried" in r.getMessage()]
    assert len(said) == 1
    assert "demo-target (aaaaaaaaaaaa) with drafter demo-drafter" in said[0]
    assert "dspark train" in said[0]
    assert learning.snapshot(PAIR)["acceptance"]["collapsed"]
    assert published[PAIR] == learning.snapshot(PAIR)


def test_a_card_that_promises_more_is_believed():
    learning = FleetLearning(promised={PAIR: 0.9})
    learn(learning, rate=0.3, claimed=0.3)
    assert learning.snapshot(PAIR)["acceptance"]["expected_by"] == "its card"
    assert learning.snapshot(PAIR)["acceptance"]["collapsed"]


def test_the_thread_absorbs_in_order_and_refits():
    learning = FleetLearning()
    thread = LearningThread(learning.refit, refit_every_s=0.05)
    for seed in range(14):
        thread.offer(partial(learning.absorb, PAIR, outcomes(400, 0.6, seed=seed)))
    deadline = time.monotonic() + 20
    while not learning.snapshot(PAIR).get("calibration") or (
        learning.snapshot(PAIR)["calibration"][str(KEY)]["version"] == 0
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert thread.num_dropped == 0


def test_reports_that_the_thread_cannot_take_are_dropped(monkeypatch):
    monkeypatch.setattr("cluster.learning_thread.threading.Thread.start", lambda self: None)
    thread = LearningThread(FleetLearning().refit)
    for _ in range(300):
        thread.offer(lambda: None)
    assert thread.num_dropped == 44


@pytest.mark.parametrize("known", [True, False])
def test_metrics_of_what_is_known(known):
    told = {}

    def publish(pair, snapshot):
        told.update({name: value for name, value, _ in learning_samples(pair, snapshot)})

    learning = FleetLearning(publish=publish)
    learn(learning, num_reports=14 if known else 0, rate=0.65)
    assert ("dspark_drift_alarm" in told) is known
    assert ("dspark_acceptance_collapsed" in told) is known
    if known:
        assert told["dspark_calibration_version"] == 1
        assert told["dspark_acceptance_rate"] == pytest.approx(0.65, abs=0.03)


def test_drafts_are_as_old_as_when_they_were_sent_by_the_clock_here(clock):
    learning = FleetLearning(clock=clock)
    report = outcomes(400, rate=0.65)
    learning.absorb(PAIR, report)
    clock.now += 10 * MEMORY_S
    learning.absorb(PAIR, report)
    (online,) = learning._calibration.learned(PAIR).values()
    later, earlier = online.drafts.priority.reshape(2, -1)
    assert later - earlier == pytest.approx(10.0)
    assert min(later) > max(earlier)
