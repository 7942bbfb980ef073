"""Calibrated confidences, as every scheduling step needs them.

Temperatures divide the logit of a confidence: c becomes sigmoid(logit(c) / t), per position
(DSpark paper, section 3.2.1). That keeps the order of confidences within a position, and it
reads no confidence but a position's own, so a causal schedule stays causal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey

_LEAST = 1e-30  # a confidence of 0 is taken for this


@dataclass(frozen=True, slots=True)
class Calibration:
    """Temperatures of positions 1 to gamma; `version` rises whenever they change."""

    temperatures: tuple[float, ...]
    version: int = 0

    @classmethod
    def identity(cls, block_size: int) -> Calibration:
        """Leaves confidences as they are."""
        return cls((1.0,) * block_size)

    @property
    def block_size(self) -> int:
        return len(self.temperatures)


def scaled(
    confidences: NDArray[np.float64], inverse_temperatures: NDArray[np.float64]
) -> NDArray[np.float64]:
    """sigmoid(logit(c) / t), any shapes that broadcast; 0 stays 0 (to 1e-6), 1 stays 1.

    Written by the odds: 1 / (1 + (1 / c - 1) ** (1 / t)) is the same and takes one power.
    """
    odds_against = 1.0 / np.maximum(confidences, _LEAST) - 1.0
    calibrated: NDArray[np.float64] = 1.0 / (1.0 + odds_against**inverse_temperatures)
    return calibrated


class Calibrator:
    """Calibrates batches whose requests may have different keys.

    A key without a calibration is left as it is. Raises ValueError for a calibration that
    has not `block_size` temperatures.
    """

    def __init__(
        self, block_size: int, calibrations: Mapping[CalibrationKey, Calibration] | None = None
    ) -> None:
        self.calibrations = dict(calibrations or {})
        self._inverse = np.ones((len(CALIBRATION_KEYS), block_size))
        for key, calibration in self.calibrations.items():
            if calibration.block_size != block_size:
                raise ValueError(
                    f"the calibration of {key} has {calibration.block_size} "
                    f"temperatures; the drafter's block size is {block_size}"
                )
            self._inverse[CALIBRATION_KEYS.index(key)] = 1 / np.array(calibration.temperatures)
        self._is_identity = bool((self._inverse == 1.0).all())

    @property
    def block_size(self) -> int:
        return self._inverse.shape[1]

    def apply(
        self, confidences: NDArray[np.float64], keys: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Calibrated `confidences` [R, gamma]; `keys` [R] are places in CALIBRATION_KEYS."""
        if self._is_identity:
            return confidences
        return scaled(confidences, self._inverse[keys])
