"""One calibration, kept right while it serves.

The controller merges what replicas count, lets old labels fade, and refits. Requests are
split by their hash: one half is fitted, the other judges. Temperatures change only for ones
that explain the held-out half better beyond chance, and go back to their predecessors where
those do.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any

from autoscale.calibration import Calibration
from autoscale.conditional_fit import compare, fit_conditional
from autoscale.drift import DriftAlarm, SurvivalCounts
from autoscale.label_counts import FIT, LabelCounts

_HALF_LIFE_LABELS = 60_000  # a label weighs half after that many later ones, of all positions
_ALARMED_HALF_LIFE_LABELS = 10_000  # while the drift alarm is on: the past is of no use
_MIN_LABELS = 500  # of a position in the fit half, before it is refitted
_REFIT_LABELS = 1_000  # new ones, before there is anything to find


class Refit(Enum):
    """What a refit did."""

    KEPT = "kept"
    ADOPTED = "adopted"
    ROLLED_BACK = "rolled back"


class OnlineCalibration:
    """Refits the calibration of one key from served outcomes.

    `serving` is what replicas are to use. Losing this object loses what was counted: one
    that starts anew from the calibration replicas report goes on where its labels allow.
    """

    def __init__(self, serving: Calibration) -> None:
        block_size = len(serving.temperatures)
        self.serving = serving
        self.labels = LabelCounts(block_size)
        self.alarm = DriftAlarm(block_size)
        self._previous: Calibration | None = None
        self._new_labels = 0.0

    def absorb(self, labels: LabelCounts, survival: SurvivalCounts, version: int) -> None:
        """Outcomes since a replica's last report; `version` predicted their survival.

        Labels count whatever predicted them. Survival counts for the alarm only where it
        was predicted by what serves now.
        """
        num_labels = float(labels.reached.sum())
        half_life = _ALARMED_HALF_LIFE_LABELS if self.alarm.active else _HALF_LIFE_LABELS
        self.labels.fade(0.5 ** (num_labels / half_life))
        self.labels.merge(labels)
        self._new_labels += num_labels
        if version == self.serving.version:
            self.alarm.observe(survival)

    def refit(self) -> Refit:
        """Adopt better temperatures, go back to the previous ones, or keep what serves."""
        if self._new_labels < _REFIT_LABELS:
            return Refit.KEPT
        self._new_labels = 0.0
        current = self.serving.temperatures
        fitted = fit_conditional(self.labels, current, _MIN_LABELS)
        previous = self._previous.temperatures if self._previous else current
        if compare(self.labels, fitted, current).is_better:
            # The predecessor may explain the recent labels better than the new fit.
            if not compare(self.labels, previous, fitted).is_better:
                self._serve(fitted)
                return Refit.ADOPTED
        elif not compare(self.labels, previous, current).is_better:
            return Refit.KEPT
        self._serve(previous)
        return Refit.ROLLED_BACK

    def learn(self, serving: Calibration) -> None:
        """Go on from a later version that replicas already use."""
        self._previous = self.serving
        self.serving = serving
        self.alarm.restart()

    def snapshot(self) -> dict[str, Any]:
        """What serves and how well, as plain values; an error is None while unknown."""
        window = self.alarm.window
        return {
            "version": self.serving.version,
            "temperatures": [round(t, 4) for t in self.serving.temperatures],
            "fit_labels": self.labels.num_labels(FIT).round().tolist(),
            "recent_labels": round(window.num_labels),
            "recent_ece": _known(window.ece),
            "recent_ece_by_position": list(map(_known, window.ece_by_position().tolist())),
            "excess_ece": _known(self.alarm.excess_ece),
            "drift_alarm": self.alarm.active,
        }

    def _serve(self, temperatures: tuple[float, ...]) -> None:
        self.learn(Calibration(temperatures, self.serving.version + 1))


def _known(error: float) -> float | None:
    return None if math.isnan(error) else round(error, 4)
