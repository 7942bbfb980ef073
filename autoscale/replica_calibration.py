"""A replica's side of online calibration: apply what serves, keep what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.calibration import Calibration, Calibrator
from autoscale.draft_sample import DraftSample, priorities
from autoscale.drift import SurvivalCounts
from autoscale.exploration import is_held_out, sampling_order
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey

_CAPACITY = 512  # drafts of a key in one report
_DIGEST_EVERY = 256  # drafts: many at once cost a fraction


class KeyReport(NamedTuple):
    """Outcomes under one key since the last report, and the calibration that served."""

    serving: Calibration
    drafts: DraftSample
    survival: SurvivalCounts


class VerifiedDrafts(NamedTuple):
    """What became of the drafts of one step, verified in the next.

    `keys` int64 [R] are places in CALIBRATION_KEYS, `seeds` uint64 [R] the requests'
    `request_seed`, `confidences` [R, gamma] the drafter's own; `num_admitted` and
    `num_accepted` are int64 [R].
    """

    keys: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    confidences: NDArray[np.float64]
    num_admitted: NDArray[np.int64]
    num_accepted: NDArray[np.int64]


class _Pending(NamedTuple):
    """Drafts of one step that are not sorted into samples and counts yet."""

    drafts: VerifiedDrafts
    step: int
    now_s: float


class ReplicaCalibration:
    """Calibrates confidences in every step, and reports outcomes to the controller."""

    def __init__(self, block_size: int) -> None:
        self._expected = np.zeros(block_size)
        self._calibrator = Calibrator(block_size)
        self._pending: list[_Pending] = []
        self._num_pending = 0
        self._outcomes: dict[CalibrationKey, tuple[DraftSample, SurvivalCounts]] = {}

    @property
    def block_size(self) -> int:
        return self._calibrator.block_size

    @property
    def calibrations(self) -> Mapping[CalibrationKey, Calibration]:
        return self._calibrator.calibrations

    def adopt(self, calibrations: Mapping[CalibrationKey, Calibration]) -> None:
        """Use these from now on where they are new or of a later version than what serves.

        Raises ValueError for a calibration of another block size.
        """
        known = self.calibrations
        changed = {
            key: one
            for key, one in calibrations.items()
            if key not in known or one.version > known[key].version
        }
        if changed:
            self._use({**known, **changed}, changed.keys())

    def go_back_to(self, calibrations: Mapping[CalibrationKey, Calibration]) -> None:
        """Use these alone from now on, whatever was adopted before.

        Raises ValueError for a calibration of another block size.
        """
        self._use(calibrations, self.calibrations.keys() | calibrations.keys())

    def _use(
        self,
        calibrations: Mapping[CalibrationKey, Calibration],
        changed: AbstractSet[CalibrationKey],
    ) -> None:
        calibrator = Calibrator(self.block_size, calibrations)
        self._digest()
        for key in changed & self._outcomes.keys():
            # Survival was predicted by what serves no longer.
            self._outcomes[key] = self._outcomes[key][0], SurvivalCounts(self.block_size)
        self._calibrator = calibrator

    def expected_by_position(self) -> NDArray[np.float64]:
        """Float64 [gamma]: how many of all drafts so far were to be accepted up to each of their
        admitted positions, by the calibration that served."""
        self._digest()
        return self._expected.copy()

    def apply(
        self, confidences: NDArray[np.float64], keys: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Calibrated `confidences` [R, gamma]; `keys` [R] are places in CALIBRATION_KEYS."""
        return self._calibrator.apply(confidences, keys)

    def record(self, drafts: VerifiedDrafts, step: int, now_s: float) -> None:
        """Drafts of step `step`, verified at `now_s` of the clock that `take_report` is told.

        The arrays are kept, not copied.
        """
        self._pending.append(_Pending(drafts, step, now_s))
        self._num_pending += len(drafts.seeds)
        if self._num_pending >= _DIGEST_EVERY:
            self._digest()

    def take_report(self, now_s: float = 0.0) -> dict[CalibrationKey, KeyReport]:
        """Outcomes since the last call, by key, dated by their age at `now_s`: the clocks of
        replicas and of the controller differ, and jump. Without it they keep their dates, of a
        clock that all share, as in a simulation."""
        self._digest()
        identity = Calibration.identity(self.block_size)
        report = {
            key: KeyReport(self.calibrations.get(key, identity), drafts.dated(-now_s), survival)
            for key, (drafts, survival) in self._outcomes.items()
        }
        self._outcomes = {}
        return report

    def _digest(self) -> None:
        """Sort pending drafts by key, into samples and counts."""
        if not self._pending:
            return
        drafts_of, step_of, now_s_of = zip(*self._pending, strict=True)
        self._pending.clear()
        self._num_pending = 0
        all_drafts = VerifiedDrafts(*map(np.concatenate, zip(*drafts_of, strict=True)))
        counts = [len(drafts.seeds) for drafts in drafts_of]
        steps = np.repeat(np.array(step_of, dtype=np.uint64), counts)
        order = sampling_order(all_drafts.seeds, steps)
        priority = priorities(order, np.repeat(now_s_of, counts))
        survival = np.cumprod(self.apply(all_drafts.confidences, all_drafts.keys), axis=1)
        is_admitted = np.arange(self.block_size) < all_drafts.num_admitted[:, None]
        self._expected += (survival * is_admitted).sum(axis=0)
        for index in np.unique(all_drafts.keys).tolist():
            rows = all_drafts.keys == index
            of_key = VerifiedDrafts(*(column[rows] for column in all_drafts))
            new = DraftSample(
                priority[rows],
                of_key.confidences.astype(np.float32),
                of_key.num_admitted,
                of_key.num_accepted,
                is_held_out(of_key.seeds),
            )
            key = CALIBRATION_KEYS[index]
            known, survived = self._outcomes.get(key) or (
                DraftSample.empty(self.block_size),
                SurvivalCounts(self.block_size),
            )
            survived.add(survival[rows], of_key.num_admitted, of_key.num_accepted)
            self._outcomes[key] = DraftSample.merge((known, new), _CAPACITY), survived
