"""What a fleet learned, as a calibration profile, and a profile as what replicas serve."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import Calibration, scaled
from autoscale.draft_sample import DraftSample
from autoscale.online_calibration import OnlineCalibration
from profiles.calibration import CalibrationProfile, PositionCalibration
from profiles.calibration_key import CalibrationKey
from profiles.labels import survival_labels
from profiles.provenance import DraftingPair
from profiles.reliability import Errors, errors_by_position


def learned_profile(
    pair: DraftingPair, learned: Mapping[CalibrationKey, OnlineCalibration], measured_on: date
) -> CalibrationProfile:
    """Under the latest version among its keys, with errors on the held-out requests."""
    entries = {key: _positions(online) for key, online in learned.items()}
    version = max((online.serving.version for online in learned.values()), default=0)
    return CalibrationProfile(pair, version, measured_on, entries)


def calibrations_of(profile: CalibrationProfile) -> dict[CalibrationKey, Calibration]:
    """By key, each under the profile's version."""
    return {
        key: Calibration(tuple(p.sts_temperature for p in positions), profile.version)
        for key, positions in profile.entries.items()
    }


def _positions(online: OnlineCalibration) -> tuple[PositionCalibration, ...]:
    fitted, judge = (online.drafts.half(held_out=held_out) for held_out in (False, True))
    counts = survival_labels(
        fitted.num_admitted, fitted.num_accepted, online.serving.block_size
    ).counts
    before = _errors(judge, np.ones(online.serving.block_size))
    after = _errors(judge, np.array(online.serving.temperatures))
    num_labels = counts.sum(axis=0).tolist()
    return tuple(map(PositionCalibration, online.serving.temperatures, num_labels, before, after))


def _errors(drafts: DraftSample, temperatures: NDArray[np.float64]) -> list[Errors]:
    confidences = scaled(drafts.confidences.astype(np.float64), 1 / temperatures)
    survival = np.cumprod(confidences, axis=1, dtype=np.float64)
    return errors_by_position(survival, drafts.num_admitted, drafts.num_accepted)
