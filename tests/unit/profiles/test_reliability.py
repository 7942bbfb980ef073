"""Measures of calibration, on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from profiles.labels import survival_labels
from profiles.reliability import (
    Errors,
    auc,
    average,
    brier,
    ece,
    errors_by_position,
    reliability_curve,
)


def of(*values):
    return np.array(values, dtype=np.float64)


def happened(*values):
    return np.array(values, dtype=bool)


def test_ece_is_the_mass_weighted_gap_of_the_bins():
    predicted = of(0.1, 0.1, 0.1, 0.9)
    assert ece(predicted, happened(0, 0, 1, 1), num_bins=2) == pytest.approx(
        0.75 * abs(1 / 3 - 0.1) + 0.25 * 0.1
    )


def test_bins_have_equal_mass():
    predicted = np.linspace(0, 0.001, 30)  # bins of equal width would be one bin
    curve = reliability_curve(predicted, np.zeros(30, dtype=bool), num_bins=3)
    assert curve.num_labels.tolist() == [10, 10, 10]
    assert curve.predicted == pytest.approx([predicted[i : i + 10].mean() for i in (0, 10, 20)])
    assert curve.happened.tolist() == [0, 0, 0]


def test_equal_predictions_share_a_bin_so_their_order_does_not_matter():
    predicted = np.full(100, 0.5)
    half = np.arange(100) < 50
    assert ece(predicted, half) == 0
    assert reliability_curve(predicted, half).num_labels.tolist() == [100]


def test_perfect_predictions_show_noise_alone():
    rng = np.random.default_rng(0)
    predicted = rng.random(200_000)
    assert ece(predicted, rng.random(200_000) < predicted) < 0.004
    assert ece(predicted, rng.random(200_000) < predicted**2) > 0.15


def test_the_noise_in_an_ece_is_known():
    rng = np.random.default_rng(0)
    survival = rng.beta(2, 5, (3000, 1))
    seen = [
        errors_by_position(survival, np.ones(3000, int), (rng.random(3000) < survival[:, 0]) * 1)[0]
        for _ in range(40)
    ]
    mean = np.mean([one.ece for one in seen])
    assert 0.9 * seen[0].noise < mean < 1.05 * seen[0].noise
    assert math.isnan(
        errors_by_position(np.ones((0, 1)), np.zeros(0, int), np.zeros(0, int))[0].noise
    )


@pytest.mark.parametrize(
    ("predicted", "labels", "expected"),
    [
        ((0.1, 0.2, 0.8, 0.9), (0, 0, 1, 1), 1.0),
        ((0.1, 0.2, 0.8, 0.9), (1, 1, 0, 0), 0.0),
        ((0.5, 0.5, 0.5, 0.5), (0, 1, 0, 1), 0.5),
        ((0.1, 0.4, 0.4, 0.8), (0, 0, 1, 1), 0.875),  # of four pairs three, and half of one
    ],
)
def test_auc_counts_ordered_pairs(predicted, labels, expected):
    assert auc(of(*predicted), happened(*labels)) == expected


def test_brier_is_the_mean_squared_error():
    assert brier(of(0.5, 0.8), happened(0, 1)) == pytest.approx((0.25 + 0.04) / 2)


def test_what_is_undefined_is_nan():
    assert math.isnan(ece(of(), happened()))
    assert math.isnan(brier(of(), happened()))
    assert math.isnan(auc(of(0.1, 0.2), happened(1, 1)))


def test_a_label_counts_only_where_its_position_was_admitted():
    """Admitted 3, accepted 1: positions 2 and 3 are rejected, 4 has no label, although it
    is known that it would not have survived."""
    labels = survival_labels(np.array([3, 0, 2]), np.array([1, 0, 2]), 4)
    assert labels.counts.tolist() == [
        [True, True, True, False],
        [False, False, False, False],
        [True, True, False, False],
    ]
    assert labels.survived.tolist() == [
        [True, False, False, False],
        [False, False, False, False],
        [True, True, False, False],
    ]


def test_errors_are_per_position_over_its_labels():
    survival = np.array([[0.9, 0.5], [0.7, 0.2], [0.8, 0.1]])
    errors = errors_by_position(survival, np.array([2, 2, 1]), np.array([2, 0, 1]))
    assert [position.num_labels for position in errors] == [3, 2]
    assert errors[0].brier == pytest.approx((0.01 + 0.49 + 0.04) / 3)
    assert errors[1].brier == pytest.approx((0.25 + 0.04) / 2)
    assert errors[1].auc == 1.0


def test_the_average_leaves_out_what_is_undefined():
    errors = [Errors(10, 0.1, math.nan, 0.2), Errors(0, math.nan, math.nan, math.nan)]
    mean = average([*errors, Errors(5, 0.3, 0.8, 0.4)])
    assert mean == pytest.approx(Errors(15, 0.2, 0.8, 0.3))
