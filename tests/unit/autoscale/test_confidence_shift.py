"""Confidences that err grossly are put right by the outcomes of drafts; others stay."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.confidence_shift import ConfidenceShift

GAMMA = 7


def learned(said, accept, drafts, seed=0):
    """From drafts of 8 at a time whose tokens are accepted with `accept`."""
    rng = np.random.default_rng(seed)
    shift = ConfidenceShift()
    for _ in range(drafts // 8):
        accepted = (rng.random((8, GAMMA)) < accept).cumprod(axis=1).sum(axis=1)
        for i in (0, 4):  # a probe's few requests
            became = np.column_stack((np.full(4, GAMMA), accepted[i : i + 4]))
            shift.record(np.full((4, GAMMA), said), became)
    return shift


@pytest.mark.parametrize("accept", [0.2, 0.5, 0.8, 0.95])
def test_calibrated_confidences_stay_as_they_are(accept):
    shift = learned(accept, accept, 8000)
    assert shift.log_odds == 0.0
    confidences = np.array([[0.3, 0.9]])
    assert shift.apply(confidences) is confidences


@pytest.mark.parametrize(
    ("said", "accept"), [(0.1, 0.9), (0.3, 0.8), (0.95, 0.4), (0.0, 0.8), (1.0, 0.5)]
)
def test_gross_errors_are_put_right_within_some_drafts(said, accept):
    shift = learned(said, accept, 64)
    assert shift.apply(np.array([said]))[0] == pytest.approx(accept, abs=0.2)


def test_eight_whole_drafts_say_that_a_head_believes_in_too_little():
    assert learned(0.1, 0.8, 8).apply(np.array([0.1]))[0] > 0.5


def test_the_order_of_confidences_stays():
    shifted = learned(0.1, 0.9, 64).apply(np.linspace(0.01, 0.99, 50))
    assert (np.diff(shifted) > 0).all()


def test_drafts_of_which_nothing_was_verified_say_nothing():
    shift = ConfidenceShift()
    none = np.zeros((8, 2), dtype=np.int64)
    for _ in range(100):
        shift.record(np.full((8, GAMMA), 0.9), none)
    assert shift.log_odds == 0.0
