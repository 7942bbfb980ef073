"""A replica's side of online calibration: apply what serves, count what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import Calibration, Calibrator
from autoscale.drift import SurvivalCounts
from autoscale.exploration import is_held_out
from autoscale.label_counts import LabelCounts
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey

_COUNT_EVERY = 256  # drafts: counting many at once costs a fraction


class KeyReport(NamedTuple):
    """Outcomes under one key since the last report, and the calibration that served."""

    serving: Calibration
    labels: LabelCounts
    survival: SurvivalCounts


class ReplicaCalibration:
    """Calibrates confidences in every step, and counts outcomes for the controller."""

    def __init__(self, block_size: int) -> None:
        self._calibrator = Calibrator(block_size)
        self._pending: list[tuple[NDArray[Any], ...]] = []
        self._num_pending = 0
        self._labels: dict[CalibrationKey, LabelCounts] = {}
        self._survival: dict[CalibrationKey, SurvivalCounts] = {}

    @property
    def calibrations(self) -> Mapping[CalibrationKey, Calibration]:
        return self._calibrator.calibrations

    def adopt(self, calibrations: Mapping[CalibrationKey, Calibration]) -> None:
        """Use these from now on; nothing is done where they are what serves already.

        Raises ValueError for a calibration of another block size.
        """
        if calibrations == self.calibrations:
            return
        calibrator = Calibrator(self._calibrator.block_size, calibrations)
        self._count()
        for key in set(calibrations) | set(self.calibrations):
            if calibrations.get(key) != self.calibrations.get(key):
                self._survival.pop(key, None)  # predicted by what serves no longer
        self._calibrator = calibrator

    def apply(
        self, confidences: NDArray[np.float64], keys: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Calibrated `confidences` [R, gamma]; `keys` [R] are places in CALIBRATION_KEYS."""
        return self._calibrator.apply(confidences, keys)

    def record(
        self,
        keys: NDArray[np.int64],
        seeds: NDArray[np.uint64],
        confidences: NDArray[np.float64],
        num_admitted: NDArray[np.int64],
        num_accepted: NDArray[np.int64],
    ) -> None:
        """What became of drafts: all [R], `confidences` [R, gamma] uncalibrated.

        `seeds` are the requests' `request_seed`. Arrays are kept, not copied.
        """
        self._pending.append((keys, seeds, confidences, num_admitted, num_accepted))
        self._num_pending += len(keys)
        if self._num_pending >= _COUNT_EVERY:
            self._count()

    def take_report(self) -> dict[CalibrationKey, KeyReport]:
        """What was counted since the last call, by key."""
        self._count()
        block_size = self._calibrator.block_size
        report = {}
        for key, labels in self._labels.items():
            serving = self.calibrations.get(key, Calibration.identity(block_size))
            survival = self._survival.get(key) or SurvivalCounts(block_size)
            report[key] = KeyReport(serving, labels, survival)
        self._labels, self._survival = {}, {}
        return report

    def _count(self) -> None:
        if not self._pending:
            return
        keys, seeds, confidences, admitted, accepted = (
            np.concatenate(column) for column in zip(*self._pending, strict=True)
        )
        self._pending.clear()
        self._num_pending = 0
        survival = np.cumprod(self.apply(confidences, keys), axis=1)
        held_out = is_held_out(seeds)
        block_size = self._calibrator.block_size
        for index in np.unique(keys).tolist():
            rows = keys == index
            key = CALIBRATION_KEYS[index]
            self._labels.setdefault(key, LabelCounts(block_size)).add(
                confidences[rows], admitted[rows], accepted[rows], held_out[rows]
            )
            self._survival.setdefault(key, SurvivalCounts(block_size)).add(
                survival[rows], admitted[rows], accepted[rows]
            )
