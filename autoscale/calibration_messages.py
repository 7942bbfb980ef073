"""Reports and calibrations as plain values, for what crosses between processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.calibration import Calibration
from autoscale.draft_sample import DraftSample
from autoscale.drift import SurvivalCounts
from autoscale.replica_calibration import KeyReport
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey

_TEMPERATURES = (1e-3, 1e3)  # beyond, a confidence says nothing
_KEYS = {str(key): key for key in CALIBRATION_KEYS}


def calibrations_to_plain(calibrations: Mapping[CalibrationKey, Calibration]) -> dict[str, Any]:
    """By key, version and temperatures."""
    return {str(key): _calibration_to_plain(one) for key, one in calibrations.items()}


def calibrations_from_plain(plain: Mapping[str, Any]) -> dict[CalibrationKey, Calibration]:
    """Raises ValueError for what `calibrations_to_plain` does not make."""
    return {_key(name): _calibration_from_plain(one) for name, one in plain.items()}


def report_to_plain(report: Mapping[CalibrationKey, KeyReport]) -> dict[str, Any]:
    """By key, the calibration that served and what was seen."""
    return {
        str(key): {
            "serving": _calibration_to_plain(one.serving),
            "drafts": one.drafts.to_plain(),
            "survival": one.survival.to_plain(),
        }
        for key, one in report.items()
    }


def report_from_plain(plain: Mapping[str, Any]) -> dict[CalibrationKey, KeyReport]:
    """Raises ValueError for what `report_to_plain` does not make."""
    report = {}
    for name, one in plain.items():
        try:
            serving = _calibration_from_plain(one["serving"])
            block_size = len(serving.temperatures)
            drafts = DraftSample.from_plain(one["drafts"], block_size)
            survival = SurvivalCounts.from_plain(one["survival"], block_size)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"outcomes of {name} are malformed: {error!r}") from None
        report[_key(name)] = KeyReport(serving, drafts, survival)
    return report


def _key(name: str) -> CalibrationKey:
    if name not in _KEYS:
        raise ValueError(f"{name!r} is not a calibration's key")
    return _KEYS[name]


def _calibration_to_plain(calibration: Calibration) -> dict[str, Any]:
    return {"version": calibration.version, "temperatures": list(calibration.temperatures)}


def _calibration_from_plain(plain: Mapping[str, Any]) -> Calibration:
    try:
        temperatures = tuple(float(t) for t in plain["temperatures"])
        calibration = Calibration(temperatures, int(plain["version"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"a calibration is malformed: {error!r}") from None
    least, most = _TEMPERATURES
    if not temperatures or not all(least <= t <= most for t in temperatures):
        raise ValueError(f"temperatures have to be in {least} to {most}, these are {temperatures}")
    return calibration
