"""The controller's side of online calibration: every pair's calibrations, refitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoscale.calibration import Calibration
from autoscale.online_calibration import OnlineCalibration, Refit
from autoscale.replica_calibration import KeyReport
from profiles.calibration_key import CalibrationKey
from profiles.provenance import DraftingPair

_Calibrations = dict[CalibrationKey, OnlineCalibration]


class FleetCalibration:
    """Merges the reports of all replicas, by target, drafter and key.

    A replica that serves a later version than is known here teaches it: so a controller that
    starts anew goes on from what its replicas use. Of two versions the later one stays.
    """

    def __init__(self) -> None:
        self._pairs: dict[DraftingPair, _Calibrations] = {}

    def start(self, pair: DraftingPair, served: Mapping[CalibrationKey, Calibration]) -> None:
        """Go on from what was learned or measured before, where it is later."""
        for key, calibration in served.items():
            self._online(pair, key, calibration)

    def absorb(self, pair: DraftingPair, report: Mapping[CalibrationKey, KeyReport]) -> None:
        """Outcomes of one replica since its last report.

        Raises ValueError where its block size is not that of other replicas of the pair.
        """
        for key, one in report.items():
            online = self._online(pair, key, one.serving)
            online.absorb(one.drafts, one.survival, one.serving.version)

    def refit(self) -> frozenset[DraftingPair]:
        """Refit every calibration that has seen enough new drafts; the pairs that changed."""
        changed = set()
        for pair, calibrations in self._pairs.items():
            for online in calibrations.values():
                if online.refit() is not Refit.KEPT:
                    changed.add(pair)
        return frozenset(changed)

    @property
    def pairs(self) -> frozenset[DraftingPair]:
        """Those that anything is known of."""
        return frozenset(self._pairs)

    def learned(self, pair: DraftingPair) -> Mapping[CalibrationKey, OnlineCalibration]:
        """All that is known of a pair."""
        return self._of(pair)

    def serving(self, pair: DraftingPair) -> dict[CalibrationKey, Calibration]:
        """What replicas of a pair are to use."""
        return {key: online.serving for key, online in self._of(pair).items()}

    def snapshot(self, pair: DraftingPair) -> dict[str, Any]:
        """Per key of a pair: version, temperatures, recent errors and the alarm."""
        return {str(key): online.snapshot() for key, online in self._of(pair).items()}

    def _of(self, pair: DraftingPair) -> _Calibrations:
        return self._pairs.get(pair, {})

    def _online(
        self, pair: DraftingPair, key: CalibrationKey, served: Calibration
    ) -> OnlineCalibration:
        calibrations = self._pairs.setdefault(pair, {})
        online = calibrations.get(key)
        if online is None:
            online = calibrations[key] = OnlineCalibration(served)
        if len(online.serving.temperatures) != len(served.temperatures):
            raise ValueError(
                f"a replica reports {len(served.temperatures)} positions for {key}, others "
                f"{len(online.serving.temperatures)}"
            )
        if served.version > online.serving.version:
            online.learn(served)
        return online
