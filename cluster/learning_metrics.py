"""Prometheus metrics of what the fleet learns; Ray exports them as `ray_dspark_...`."""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from profiles.provenance import DraftingPair

_OF_PAIR = ("model", "drafter", "drafter_version")
# What `FleetLearning.snapshot` calls it: the metric, and what it says.
_OF_KEY = {
    "version": ("dspark_calibration_version", "Version of the calibration that serves"),
    "recent_ece": ("dspark_calibration_ece", "ECE of predicted survival over recent labels"),
    "excess_ece": ("dspark_calibration_excess_ece", "Its part beyond sampling noise"),
    "drift_alarm": ("dspark_drift_alarm", "1 while predicted survival is clearly off"),
}
_OF_ACCEPTANCE = {
    "rate": ("dspark_acceptance_rate", "Accepted share of the draft tokens tried"),
    "expected_rate": ("dspark_acceptance_rate_expected", "What there is reason to expect"),
    "collapsed": ("dspark_acceptance_collapsed", "1 while less than half of it is accepted"),
}


class LearningMetrics:
    """Gauges by pair, those of calibration by key too: to be `FleetLearning`'s `publish`."""

    def __init__(self) -> None:
        self._of_key = _gauges(_OF_KEY, (*_OF_PAIR, "key"))
        self._of_acceptance = _gauges(_OF_ACCEPTANCE, _OF_PAIR)

    def __call__(self, pair: DraftingPair, snapshot: dict[str, Any]) -> None:
        names = (pair.model_id, pair.drafter_id, pair.drafter_version)
        tags = dict(zip(_OF_PAIR, names, strict=True))
        for key, values in snapshot["calibration"].items():
            _set(self._of_key, values, tags | {"key": key})
        _set(self._of_acceptance, snapshot.get("acceptance", {}), tags)


def _gauges(metrics: dict[str, tuple[str, str]], tags: tuple[str, ...]) -> dict[str, Gauge]:
    return {key: Gauge(name, text, tag_keys=tags) for key, (name, text) in metrics.items()}


def _set(gauges: dict[str, Gauge], values: dict[str, Any], tags: dict[str, str]) -> None:
    """Those that are known; an error is None while there are too few labels."""
    for name, gauge in gauges.items():
        if values.get(name) is not None:
            gauge.set(float(values[name]), tags)
