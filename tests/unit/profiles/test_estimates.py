import math

import pytest

from profiles.estimates import Estimate, difference, estimate, unpaired_ratio


def test_an_interval_is_students():
    assert estimate([1.0, 2.0, 3.0]) == Estimate(2.0, pytest.approx(4.303 / math.sqrt(3)), 2.0)
    assert (estimate([1.0, 2.0, 9.0]).mean, estimate([1.0, 2.0, 9.0]).median) == (4.0, 2.0)
    assert estimate([1.0, 3.0]).half_width == pytest.approx(12.706)
    assert estimate([2.0, math.nan]).mean == 2.0
    assert math.isnan(estimate([2.0]).half_width)
    assert math.isnan(estimate([]).mean)
    assert estimate([2.0, 2.0]).relative == 0


def test_a_difference_without_pairs_is_welchs():
    # By hand: variances of the means 1/3 and 16/3, so 2.25 degrees of freedom, taken as 2.
    one = difference([1.0, 2.0, 3.0], [6.0, 10.0, 14.0])
    assert one == Estimate(-8.0, pytest.approx(4.303 * math.sqrt(17 / 3)), -8.0)
    assert difference([1.0, 1.0], [0.5, 0.5]) == Estimate(0.5, 0.0, 0.5)


def test_equal_spreads_have_the_degrees_of_both():
    values = [1.0, 2.0, 3.0]
    one = difference(values, values)
    assert one.half_width == pytest.approx(2.776 * math.sqrt(2 / 3))


def test_a_ratio_without_pairs_has_the_relative_errors_of_both():
    one = unpaired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert one == Estimate(2.0, pytest.approx(2.776 * 2 * math.sqrt(2 / 12)), 2.0)
    assert unpaired_ratio([0.0, 0.0], [1.0, 1.0]) == Estimate(0.0, 0.0, 0.0)


@pytest.mark.parametrize("function", [difference, unpaired_ratio])
def test_one_run_on_either_side_has_no_interval(function):
    assert math.isnan(function([2.0], [1.0, 3.0]).half_width)
    assert math.isnan(function([1.0, 3.0], [2.0, math.nan]).half_width)
    assert math.isnan(function([], [1.0, 3.0]).mean)


def test_nothing_is_a_multiple_of_nothing():
    assert math.isnan(unpaired_ratio([1.0, 1.0], [0.0, 0.0]).mean)
