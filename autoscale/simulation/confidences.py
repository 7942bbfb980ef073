"""What a simulated replica's confidences go through, as in a worker: calibrated before the
policy sees them, held against what became of the drafts after the step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
from numpy.typing import NDArray

from autoscale.confidence_shift import ConfidenceShift
from autoscale.exploration import EXPLORATION_RATE
from autoscale.policies import Policy, StepTerms
from autoscale.replica_calibration import ReplicaCalibration, VerifiedDrafts
from profiles.calibration_key import CALIBRATION_KEYS, calibration_key

_PLACE = CALIBRATION_KEYS.index(calibration_key("q", 0.7))  # how all of them are verified

_DRAWN = 1024


class CalibratedDrafts:
    """The drafts of one replica's steps; `confidences_err` where confidences are shifted by what
    becomes of drafts, `keeps_outcomes` where calibrations are learned of it.

    `rng` draws who explores: cheaper than a worker's hashes, and as often.
    """

    def __init__(
        self,
        block_size: int,
        rng: np.random.Generator,
        *,
        confidences_err: bool = False,
        keeps_outcomes: bool = False,
    ) -> None:
        self._shift = ConfidenceShift() if confidences_err else None
        self._explorers = Explorers(rng)
        self.replica = ReplicaCalibration(block_size)
        self._keeps_outcomes = keeps_outcomes
        self._num_steps = 0
        self._seeds = np.zeros(0, dtype=np.uint64)
        self._confidences = self._calibrated = np.zeros((0, block_size))

    def admit(
        self,
        policy: Policy,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        seeds: NDArray[np.uint64],
        num_requests: int,
        terms: StepTerms,
    ) -> NDArray[np.int64]:
        """Draft tokens to verify, int64 [R]; `confidences` [R, gamma] are the drafter's own,
        `seeds` [R] the requests' (`autoscale.exploration.request_seed`)."""
        if not policy.reads_confidences:
            return policy.admit(confidences, limits, num_requests, terms)
        self._num_steps += 1
        self._seeds, self._confidences = seeds, confidences
        shown = self._calibrated = self._calibrate(confidences)
        if self._shift is not None:
            shown = self._shift.apply(shown)
        lengths = policy.admit(shown, limits, num_requests, terms)
        exploring = self._explorers.of_next(len(limits))
        if exploring:
            lengths[exploring] = limits[exploring]
        return lengths

    def _calibrate(self, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
        if not self.replica.calibrations:
            return confidences
        return self.replica.apply(confidences, np.full(len(confidences), _PLACE))

    def record(
        self, num_admitted: NDArray[np.int64], num_accepted: NDArray[np.int64], now_s: float
    ) -> None:
        """What the step after `admit` made of its drafts, int64 [R] both."""
        if self._shift is not None and len(self._calibrated):
            became = np.column_stack((num_admitted, num_accepted))
            self._shift.record(self._calibrated, became)
        if not self._keeps_outcomes:
            return
        rows = np.flatnonzero(num_admitted)
        if not len(rows) or not len(self._seeds):
            return
        drafts = VerifiedDrafts(
            np.full(len(rows), _PLACE),
            self._seeds[rows],
            self._confidences[rows],
            num_admitted[rows],
            num_accepted[rows],
        )
        self.replica.record(drafts, self._num_steps, now_s)


class Explorers:
    """Who of the drafted requests explores: of each alike, as `rng` draws it for one by one."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._exploring = _exploring(rng)
        self._next = next(self._exploring)
        self._num_asked = 0

    def of_next(self, num_requests: int) -> list[int]:
        """Rows of those who explore of so many more requests."""
        first = self._num_asked
        self._num_asked += num_requests
        rows = []
        while self._next < self._num_asked:
            rows.append(self._next - first)
            self._next = next(self._exploring)
        return rows


def _exploring(rng: np.random.Generator) -> Iterator[int]:
    """Of all requests ever drafted for, the numbers of those who explore; drawn by the thousand."""
    for first in count(step=_DRAWN):
        yield from (first + np.flatnonzero(rng.random(_DRAWN) < EXPLORATION_RATE)).tolist()
