"""Between a source's confidences and the policy: calibrated, explored, held to account."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.calibration import Calibration
from autoscale.causal_policy import Causal
from autoscale.exploration import explores, request_seed
from autoscale.policies import Fixed, Verified
from autoscale.step_cost import StepCostTable
from deployments.engine.draft_calibration import EXPLORATION_RATE, DraftCalibration
from drafters.messages import StepRow
from profiles.calibration_key import CalibrationKey

GAMMA = 4
GREEDY = CalibrationKey("greedy", "0")
SHARPER = Calibration((0.5,) * GAMMA, version=3)


class Reader(Fixed):
    """Admits one token, and keeps the confidences it was shown."""

    reads_confidences = True

    def __init__(self):
        super().__init__(1)
        object.__setattr__(self, "seen", [])

    def admit(self, confidences, limits, num_requests, terms):
        self.seen.append(confidences)
        return super().admit(confidences, limits, num_requests, terms)


def rows(*ids, temperature=0.0):
    return [StepRow(id_, 1, 0, 1, anchor=5, temperature=temperature) for id_ in ids]


def admit(calibration, policy, some, confidence=0.8, with_q=False):
    shape = (len(some), GAMMA)
    return calibration.admit(
        policy,
        some,
        np.full(shape, confidence),
        np.full(len(some), GAMMA),
        len(some),
        with_q=with_q,
    )


@pytest.fixture
def calibration():
    found = DraftCalibration(GAMMA, clock=lambda: 100.0)
    found.replica.adopt({GREEDY: SHARPER})
    return found


def test_a_policy_that_reads_confidences_is_shown_calibrated_ones(calibration):
    reader = Reader()
    admit(calibration, reader, rows("a"))
    assert reader.seen[0] == pytest.approx(0.8**2 / (0.8**2 + 0.2**2))  # twice the log-odds
    assert (calibration.replica.take_report() or {}) == {}


def test_outcomes_are_reported_with_the_drafters_own_confidences(calibration):
    lengths = admit(calibration, Reader(), rows("a", "b"))
    calibration.record([Verified("a", 1, 1), Verified("b", 1, 0)])
    one = calibration.replica.take_report()[GREEDY]
    assert lengths.tolist() == [1, 1]
    assert one.serving == SHARPER
    assert one.drafts.confidences == pytest.approx(0.8)
    assert sorted(one.drafts.num_accepted.tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("temperature", "with_q", "mode"),
    [(0.0, False, "greedy"), (0.0, True, "greedy"), (0.7, True, "q"), (0.7, False, "one-hot")],
)
def test_a_drafts_key_is_how_its_request_is_verified(temperature, with_q, mode):
    calibration = DraftCalibration(GAMMA)
    some = rows("a", temperature=temperature)
    admit(calibration, Fixed(2), some, with_q=with_q)
    calibration.record([Verified("a", 2, 1)])
    (key,) = calibration.replica.take_report()
    assert key.verification_mode == mode


def test_what_is_not_verified_is_not_counted(calibration):
    """A request that ended, one whose drafts were not scheduled, one with none admitted."""
    admit(calibration, Fixed(2), rows("gone", "unscheduled", "b"))
    calibration.record([Verified("unscheduled", 0, 0), Verified("b", 2, 2)])
    calibration.record([Verified("gone", 2, 2)])  # nobody drafted before this step
    assert len(calibration.replica.take_report()[GREEDY].drafts) == 1


def test_what_was_expected_is_told_by_position():
    calibration = DraftCalibration(GAMMA)
    admit(calibration, Fixed(3), rows("a", "gone", "b"), confidence=0.5)
    calibration.record([Verified("a", 3, 1), Verified("b", 2, 0)])
    assert calibration.replica.expected_by_position() == pytest.approx([1.0, 0.5, 0.125, 0.0])


def test_drafts_cut_short_by_the_engine_count_as_far_as_they_went(calibration):
    admit(calibration, Fixed(4), rows("a"))
    calibration.record([Verified("a", 2, 2)])
    assert calibration.replica.take_report()[GREEDY].drafts.num_admitted.tolist() == [2]


def explored(policy, confidence=0.8, steps=400):
    calibration = DraftCalibration(GAMMA)
    ids = [f"r{i}" for i in range(8)]
    return np.array([admit(calibration, policy, rows(*ids), confidence) for _ in range(steps)])


def test_few_drafts_go_to_their_limit_whatever_was_drafted():
    low, high = explored(Reader(), 0.1), explored(Reader(), 0.9)
    assert 0.01 < (low == GAMMA).mean() < 0.03
    assert (low == high).all()


def test_what_is_decided_ahead_is_each_steps_own_and_changes_with_the_requests():
    calibration, ids = DraftCalibration(GAMMA), [f"r{i}" for i in range(200)]
    for step in range(1, 101):
        some = ids[: 200 if step < 40 else 150]
        seeds = np.array([request_seed(id_) for id_ in some], dtype=np.uint64)
        expected = explores(seeds, range(step, step + 1), EXPLORATION_RATE)[0]
        lengths = admit(calibration, Reader(), rows(*some))
        assert (np.array(lengths) == GAMMA).tolist() == expected.tolist()


def test_a_policy_that_reads_no_confidences_is_never_departed_from():
    assert (explored(Fixed(2)) == 2).all()


def test_a_tokens_admission_reads_no_confidence_behind_its_own():
    """Calibrated, scheduled and explored: what follows a token is not known when it is drawn."""
    rng = np.random.default_rng(0)
    ids = ["a", "b", "c"]

    def lengths(confidences):
        calibration = DraftCalibration(GAMMA)
        calibration.replica.adopt({GREEDY: Calibration((0.5, 2.0, 0.7, 3.0), version=1)})
        limits = np.array([4, 2, 4])
        policy = Causal(StepCostTable((1, 4, 16), (0.010, 0.011, 0.030)))
        return calibration.admit(policy, rows(*ids), confidences, limits, 3, with_q=True)

    seen = set()
    for _ in range(300):
        confidences = rng.uniform(0.05, 1.0, (3, GAMMA))
        request, k = rng.integers(3), rng.integers(GAMMA - 1)
        other = confidences.copy()
        other[request, k + 1 :] = rng.uniform(0.05, 1.0, GAMMA - 1 - k)
        is_admitted = lengths(confidences)[request] > k
        assert is_admitted == (lengths(other)[request] > k)
        seen.add(bool(is_admitted))
    assert seen == {True, False}


def test_a_request_that_comes_again_under_its_name_is_another(calibration):
    for temperature in (0.0, 0.7):
        admit(calibration, Fixed(1), rows("a", temperature=temperature))
        calibration.record([Verified("a", 1, 1)])
        calibration.forget("a")
    assert {key.verification_mode for key in calibration.replica.take_report()} == {
        "greedy",
        "one-hot",
    }


def test_outcomes_are_dated_by_their_age_whatever_the_replicas_clock_says():
    def dates(now_s: float) -> list[float]:
        clock = iter([now_s, now_s + 60.0])  # verified, and reported
        calibration = DraftCalibration(GAMMA, clock=lambda: next(clock))
        admit(calibration, Fixed(1), rows("a"))
        calibration.record([Verified("a", 1, 1)])
        (report,) = calibration.take_report().values()
        return report.drafts.priority.tolist()

    assert dates(7.0) == pytest.approx(dates(1e6))


def verified_wholly(calibration, ids, accepted):
    calibration.record([Verified(id_, GAMMA, accepted) for id_ in ids])


def test_confidences_that_err_grossly_are_shifted_until_they_are_calibrated_anew(calibration):
    reader = Reader()
    some = rows("a", "b", "c", "d")
    for _ in range(8):
        admit(calibration, reader, some, confidence=0.1)
        verified_wholly(calibration, "abcd", GAMMA)
    admit(calibration, reader, some, confidence=0.1)
    assert reader.seen[0].max() < 0.05
    assert reader.seen[-1].min() > 0.7
    calibration.replica.adopt({GREEDY: Calibration((1.0,) * GAMMA, version=4)})
    admit(calibration, reader, some, confidence=0.1)
    assert reader.seen[-1] == pytest.approx(0.1)
