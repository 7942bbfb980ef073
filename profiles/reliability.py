"""How far predicted probabilities are from what happened: ECE, AUC, Brier, curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.labels import survival_labels

NUM_BINS = 15


class ReliabilityCurve(NamedTuple):
    """Per bin that has any, in rising order: mean predicted probability, share that happened,
    and how many."""

    predicted: NDArray[np.float64]
    happened: NDArray[np.float64]
    num_labels: NDArray[np.int64]


class Errors(NamedTuple):
    """`ece`, `auc` and `brier` over `num_labels` predictions; NaN where undefined."""

    num_labels: int
    ece: float
    auc: float
    brier: float

    @property
    def noise(self) -> float:
        """About the ECE that sampling alone shows of perfect predictions, whose Brier score is
        the mean of p (1 - p); rather above it, as bins differ. NaN for no labels."""
        if not self.num_labels:
            return float("nan")
        return math.sqrt(2 / math.pi * self.brier * NUM_BINS / self.num_labels)


def reliability_curve(
    predicted: NDArray[np.float64], happened: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> ReliabilityCurve:
    """Predictions [N] in bins of equal mass; equal predictions share a bin.

    Equal mass, as survival probabilities of late positions crowd near 0, where bins of equal
    width would put them all into one.
    """
    if not len(predicted):
        return ReliabilityCurve(np.zeros(0), np.zeros(0), np.zeros(0, dtype=np.int64))
    edges = np.quantile(predicted, np.linspace(0, 1, num_bins + 1)[1:-1])
    bins = np.searchsorted(edges, predicted, side="right")
    count = np.bincount(bins, minlength=num_bins)
    filled = count > 0
    sums = (np.bincount(bins, of, num_bins)[filled] for of in (predicted, happened))
    mean_predicted, share_happened = (total / count[filled] for total in sums)
    return ReliabilityCurve(mean_predicted, share_happened, count[filled])


def ece(
    predicted: NDArray[np.float64], happened: NDArray[np.bool_], num_bins: int = NUM_BINS
) -> float:
    """Expected calibration error (Naeini et al., 2015) over bins of equal mass; NaN for none.

    `Errors.noise` is how much of it is sampling.
    """
    curve = reliability_curve(predicted, happened, num_bins)
    if not len(curve.num_labels):
        return float("nan")
    gaps = np.abs(curve.predicted - curve.happened)
    return float(gaps @ curve.num_labels / curve.num_labels.sum())


def auc(predicted: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
    """Area under the ROC curve; ties count half; NaN where nothing or everything happened."""
    num_happened = int(np.count_nonzero(happened))
    num_not = len(happened) - num_happened
    if not num_happened or not num_not:
        return float("nan")
    _, value, count = np.unique(predicted, return_inverse=True, return_counts=True)
    mean_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = mean_rank[value[happened]].sum()
    return float((rank_sum - num_happened * (num_happened + 1) / 2) / (num_happened * num_not))


def brier(predicted: NDArray[np.float64], happened: NDArray[np.bool_]) -> float:
    """Mean squared error of the probabilities; NaN for none."""
    return float(np.mean((predicted - happened) ** 2)) if len(predicted) else float("nan")


def errors_by_position(
    survival: NDArray[np.float64],
    num_admitted: NDArray[np.int64],
    num_accepted: NDArray[np.int64],
) -> list[Errors]:
    """Of predicted `survival` [N, gamma] at each position, over its labels."""
    labels = survival_labels(num_admitted, num_accepted, survival.shape[1])
    errors = []
    for k in range(survival.shape[1]):
        rows = labels.counts[:, k]
        predicted, survived = survival[rows, k], labels.survived[rows, k]
        errors.append(
            Errors(
                num_labels=len(predicted),
                ece=ece(predicted, survived),
                auc=auc(predicted, survived),
                brier=brier(predicted, survived),
            )
        )
    return errors


def average(errors: Sequence[Errors]) -> Errors:
    """The plain mean over positions where a measure is defined; labels are summed."""

    def mean(values: list[float]) -> float:
        defined = [value for value in values if value == value]
        return sum(defined) / len(defined) if defined else float("nan")

    return Errors(
        num_labels=sum(one.num_labels for one in errors),
        ece=mean([one.ece for one in errors]),
        auc=mean([one.auc for one in errors]),
        brier=mean([one.brier for one in errors]),
    )
