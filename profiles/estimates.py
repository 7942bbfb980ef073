"""Means over repetitions with their 95 % intervals, and ratios and differences of two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median, stdev
from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean over runs and half the width of its 95 % interval (NaN for a single run), and the
    median, which one disturbed run moves less."""

    mean: float
    half_width: float
    median: float

    @property
    def relative(self) -> float:
        """The half width over the mean."""
        return self.half_width / abs(self.mean) if self.mean else math.nan


# Student's t for 97.5 %, by degrees of freedom; beyond these the last value is 4 % too wide.
_T = (
    *(math.nan, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


def estimate(values: Sequence[float]) -> Estimate:
    """Of repetitions, the interval by Student's t; NaN among them is left out."""
    known = _known(values)
    if not known:
        return Estimate(math.nan, math.nan, math.nan)
    freedom = len(known) - 1
    half_width = _t(freedom) * math.sqrt(_mean_variance(known)) if freedom else math.nan
    return Estimate(fmean(known), half_width, median(known))


def difference(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """`values` less `base`, which have no rounds in common: the interval by Welch."""
    own, others = _known(values), _known(base)
    if not (own and others):
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(
        fmean(own) - fmean(others), _welch(own, others, 1.0), median(own) - median(others)
    )


def unpaired_ratio(values: Sequence[float], base: Sequence[float]) -> Estimate:
    """`values` over a positive `base`, which have no rounds in common.

    The interval is Welch's of the two relative errors, the logarithm's to first order. NaN
    throughout where the base is not above 0.
    """
    own, others = _known(values), _known(base)
    if not (own and others and fmean(others) > 0 and median(others) > 0):
        return Estimate(math.nan, math.nan, math.nan)
    ratio = fmean(own) / fmean(others)
    half_width = _welch(own, others, ratio) / fmean(others)
    return Estimate(ratio, half_width, median(own) / median(others))


def _welch(own: Sequence[float], others: Sequence[float], scale: float) -> float:
    """Half the width of the interval of mean(own) - scale * mean(others); NaN where either is
    one run alone."""
    if min(len(own), len(others)) < 2:
        return math.nan
    parts = (_mean_variance(own), scale * scale * _mean_variance(others))
    spread = sum(parts)
    if spread == 0:
        return 0.0
    shares = (parts[0] / spread, parts[1] / spread)  # so that nothing small is squared
    freedom = 1 / (shares[0] ** 2 / (len(own) - 1) + shares[1] ** 2 / (len(others) - 1))
    return _t(math.floor(freedom + 1e-9)) * math.sqrt(spread)


def _mean_variance(values: Sequence[float]) -> float:
    return stdev(values) ** 2 / len(values)


def _t(freedom: int) -> float:
    return _T[min(freedom, len(_T) - 1)]


def _known(values: Sequence[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]
