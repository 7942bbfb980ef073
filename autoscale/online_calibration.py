"""One calibration, kept right while it serves.

The controller merges the samples of drafts that replicas report, and refits. Requests are
split by their hash: one half is fitted, the other judges. Temperatures change only for ones
that predict the held-out half better beyond chance, and go back to their predecessors where
those do.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import Calibration, scaled
from autoscale.draft_sample import DraftSample
from autoscale.drift import DriftAlarm, SurvivalCounts
from autoscale.sts import fit_temperatures
from profiles.labels import survival_labels

CAPACITY = 32_768  # drafts; a refit takes some 80 ms
_MERGE_AFTER = 64  # reports: sorting many at once costs a fraction
_MIN_DRAFTS = 2_000  # before a fit
_REFIT_DRAFTS = 500  # new ones, before there is anything to find


class Refit(Enum):
    """What a refit did."""

    KEPT = "kept"
    ADOPTED = "adopted"
    ROLLED_BACK = "rolled back"


class Comparison(NamedTuple):
    """By how much one calibration predicts the survival of drafts better than another.

    `gain` is the fall of the squared error, summed over labels; `noise` its standard error.
    """

    gain: float
    noise: float

    @property
    def is_better(self) -> bool:
        """Beyond what chance brings about."""
        return self.gain > 3 * self.noise


def compare(candidate: Calibration, other: Calibration, drafts: DraftSample) -> Comparison:
    """Hold a candidate against another calibration on `drafts`."""
    differences = _squared_errors(other, drafts) - _squared_errors(candidate, drafts)
    return Comparison(float(differences.sum()), float(np.sqrt((differences**2).sum())))


class OnlineCalibration:
    """Refits the calibration of one key from served outcomes.

    `serving` is what replicas are to use. Losing this object loses the sample: a new one
    goes on from the calibration that replicas report, as soon as it has seen enough.
    """

    def __init__(self, serving: Calibration) -> None:
        self.serving = serving
        self.alarm = DriftAlarm(serving.block_size)
        self._reported = [DraftSample.empty(serving.block_size)]  # merged before a refit
        self._previous: Calibration | None = None
        self._num_new = 0

    @property
    def drafts(self) -> DraftSample:
        """The sample it refits from."""
        return self._merge()

    def absorb(self, drafts: DraftSample, survival: SurvivalCounts, version: int) -> None:
        """Outcomes since a replica's last report; `version` predicted their survival.

        Drafts count whatever predicted them, survival only where it was predicted by what
        serves now. When the alarm goes on, what was sampled before no longer holds.
        """
        self._reported.append(drafts)
        self._num_new += len(drafts)
        if len(self._reported) > _MERGE_AFTER:
            self._merge()
        if version == self.serving.version:
            was_active = self.alarm.active
            self.alarm.observe(survival)
            if self.alarm.active and not was_active:
                self._reported = [DraftSample.empty(self.serving.block_size)]

    def refit(self) -> Refit:
        """Adopt better temperatures, go back to the previous ones, or keep what serves."""
        drafts = self._merge()
        if self._num_new < _REFIT_DRAFTS or len(drafts) < _MIN_DRAFTS:
            return Refit.KEPT
        self._num_new = 0
        judge = drafts.half(held_out=True)
        fitted = self._fit(drafts.half(held_out=False))
        previous = self._previous
        if compare(fitted, self.serving, judge).is_better:
            if previous is None or not compare(previous, fitted, judge).is_better:
                self.learn(fitted)
                return Refit.ADOPTED
        elif previous is None or not compare(previous, self.serving, judge).is_better:
            return Refit.KEPT
        self.learn(Calibration(previous.temperatures, self.serving.version + 1))
        return Refit.ROLLED_BACK

    def learn(self, serving: Calibration) -> None:
        """Go on from a later version."""
        self._previous = self.serving
        self.serving = serving
        self.alarm.restart()

    def snapshot(self) -> dict[str, Any]:
        """What serves and how well, as plain values; an error is None while unknown."""
        window = self.alarm.window
        return {
            "version": self.serving.version,
            "temperatures": [round(t, 4) for t in self.serving.temperatures],
            "sampled_drafts": len(self._merge()),
            "recent_labels": round(window.num_labels),
            "recent_ece": _known(window.ece),
            "recent_ece_by_position": list(map(_known, window.ece_by_position().tolist())),
            "excess_ece": _known(self.alarm.excess_ece),
            "ece_error": _known(window.ece_error),
            "drift_alarm": self.alarm.active,
        }

    def _merge(self) -> DraftSample:
        if len(self._reported) > 1:
            self._reported = [DraftSample.merge(self._reported, CAPACITY)]
        return self._reported[0]

    def _fit(self, drafts: DraftSample) -> Calibration:
        temperatures = fit_temperatures(
            drafts.confidences.astype(np.float64),
            drafts.num_admitted,
            drafts.num_accepted,
            otherwise=self.serving.temperatures,
        )
        return Calibration(tuple(temperatures.tolist()), self.serving.version + 1)


def _squared_errors(calibration: Calibration, drafts: DraftSample) -> NDArray[np.float64]:
    """Of predicted survival, summed over the labels of each draft: float64 [N]."""
    confidences = drafts.confidences.astype(np.float64)
    survival = np.cumprod(scaled(confidences, 1 / np.array(calibration.temperatures)), axis=1)
    labels = survival_labels(drafts.num_admitted, drafts.num_accepted, calibration.block_size)
    errors: NDArray[np.float64] = ((survival - labels.survived) ** 2 * labels.counts).sum(axis=1)
    return errors


def _known(error: float) -> float | None:
    return None if math.isnan(error) else round(error, 4)
