"""What one engine's confidences go through: calibrated before the policy, judged after.

A draft's key and seed follow from its request, exploration from request and step, and a
calibrated confidence from the raw one alone. None of it reads a draft token, so sampled
requests stay exact (design section 5, rules 1 and 4).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.confidence_shift import ConfidenceShift
from autoscale.exploration import EXPLORATION_RATE, explores, request_seed
from autoscale.policies import PLAIN_TERMS, Policy, StepTerms
from autoscale.replica_calibration import KeyReport, ReplicaCalibration, VerifiedDrafts
from drafters.messages import StepRow
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey, calibration_key

_STEPS_AHEAD = 32  # for which it is decided at once who explores


class _Traits(NamedTuple):
    """Of a request: its keys with and without a draft distribution, and its seed."""

    key_with_q: int
    key_one_hot: int
    seed: int


class _Requests(NamedTuple):
    """Those that drafts were asked for, in order; the same for many steps."""

    ids: list[str]
    with_q: bool
    keys: NDArray[np.int64]
    seeds: NDArray[np.uint64]


class _Exploring(NamedTuple):
    """Who explores, [steps, R], from `first_step` on, and in which of the steps anybody does."""

    requests: _Requests
    first_step: int
    by_step: NDArray[np.bool_]
    any_by_step: NDArray[np.bool_]


class _Admitted(NamedTuple):
    """Drafts that the next step verifies: `confidences` [R, gamma] as the drafter gave them, and
    `calibrated` where the policy reads them."""

    step: int
    requests: _Requests
    confidences: NDArray[np.float64]
    calibrated: NDArray[np.float64] | None


class DraftCalibration:
    """Stands between a draft source's confidences and the policy of one engine."""

    def __init__(self, block_size: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.replica = ReplicaCalibration(block_size)
        self._shift = ConfidenceShift()
        self._shift_is_of = self.replica.calibrations
        self._clock = clock
        self._traits: dict[str, _Traits] = {}
        self._num_steps = 0
        self._last: _Requests | None = None
        self._exploring: _Exploring | None = None
        self._admitted: _Admitted | None = None

    def take_report(self) -> dict[CalibrationKey, KeyReport]:
        """Outcomes since the last call, by key."""
        return self.replica.take_report(self._clock())

    def forget(self, request_id: str) -> None:
        """A request has ended."""
        self._traits.pop(request_id, None)
        self._last = None

    def admit(
        self,
        policy: Policy,
        rows: Sequence[StepRow],
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
        *,
        with_q: bool,
    ) -> NDArray[np.int64]:
        """Draft tokens to verify, int64 [R], of the requests `rows` [R] that were drafted for.

        `confidences` [R, gamma] are the drafter's; `with_q` says whether its sampled drafts
        come with the distribution they were drawn from. A policy that reads confidences
        gets calibrated ones, and a few drafts go to their limit to learn of what it would
        not admit.
        """
        calibrated = self.calibrate(policy, rows, confidences, with_q=with_q)
        lengths = policy.admit(calibrated, limits, num_requests, terms)
        return self.settle(policy, lengths, limits)

    def calibrate(
        self,
        policy: Policy,
        rows: Sequence[StepRow],
        confidences: NDArray[np.float64],
        *,
        with_q: bool,
    ) -> NDArray[np.float64]:
        """The first half of `admit`: what the policy is to see. `settle` has to follow."""
        self._num_steps += 1
        requests = self._requests(rows, with_q)
        if not policy.reads_confidences:
            self._admitted = _Admitted(self._num_steps, requests, confidences, None)
            return confidences
        if self._shift_is_of is not self.replica.calibrations:
            self._shift_is_of = self.replica.calibrations
            self._shift.restart()
        calibrated = self.replica.apply(confidences, requests.keys)
        self._admitted = _Admitted(self._num_steps, requests, confidences, calibrated)
        return self._shift.apply(calibrated)

    def settle(
        self, policy: Policy, lengths: NDArray[np.int64], limits: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """The second half: the policy's `lengths`, but for the drafts that explore."""
        assert self._admitted is not None, "calibrate() comes first"
        if policy.reads_confidences:
            exploring = self._who_explores(self._admitted.requests)
            step = self._num_steps - exploring.first_step
            if exploring.any_by_step[step]:
                lengths = np.where(exploring.by_step[step], limits, lengths)
        return lengths

    def _who_explores(self, requests: _Requests) -> _Exploring:
        """It is decided by request and step, so also some steps ahead."""
        ahead = self._exploring
        last_step = self._num_steps - _STEPS_AHEAD
        if ahead is None or ahead.requests is not requests or ahead.first_step <= last_step:
            by_step = explores(
                requests.seeds,
                range(self._num_steps, self._num_steps + _STEPS_AHEAD),
                EXPLORATION_RATE,
            )
            ahead = self._exploring = _Exploring(
                requests, self._num_steps, by_step, np.any(by_step, axis=1)
            )
        return ahead

    def record(self, verified: Sequence[tuple[str, int, int]]) -> None:
        """What the step after `admit` made of its drafts; whoever is missing is not counted."""
        admitted, self._admitted = self._admitted, None
        if admitted is None:
            return
        ids, _, keys, seeds = admitted.requests
        confidences, calibrated = admitted.confidences, admitted.calibrated
        became = {id_: (drafts, accepted) for id_, drafts, accepted in verified if drafts}
        rows = [i for i, id_ in enumerate(ids) if id_ in became]
        if not rows:
            return
        if len(rows) < len(ids):
            keys, seeds, confidences = keys[rows], seeds[rows], confidences[rows]
            calibrated = None if calibrated is None else calibrated[rows]
        counts = np.array([became[ids[i]] for i in rows])
        if calibrated is not None:
            self._shift.record(calibrated, counts)
        drafts = VerifiedDrafts(keys, seeds, confidences, counts[:, 0], counts[:, 1])
        self.replica.record(drafts, admitted.step, self._clock())

    def _requests(self, rows: Sequence[StepRow], with_q: bool) -> _Requests:
        ids = [row.request_id for row in rows]
        if self._last is None or (ids, with_q) != self._last[:2]:
            traits = [self._traits_of(row) for row in rows]
            keys = [one.key_with_q if with_q else one.key_one_hot for one in traits]
            seeds = [one.seed for one in traits]
            self._last = _Requests(ids, with_q, np.array(keys), np.array(seeds, dtype=np.uint64))
        return self._last

    def _traits_of(self, row: StepRow) -> _Traits:
        traits = self._traits.get(row.request_id)
        if traits is None:
            with_q, one_hot = ("q", "one-hot") if row.temperature > 0 else ("greedy", "greedy")
            traits = self._traits[row.request_id] = _Traits(
                _place(with_q, row.temperature),
                _place(one_hot, row.temperature),
                request_seed(row.request_id),
            )
        return traits


def admit_together(
    parts: Sequence[tuple[DraftCalibration, NDArray[np.int64]]],
    policy: Policy,
    rows: Sequence[StepRow],
    confidences: NDArray[np.float64],
    limits: NDArray[np.int64],
    num_requests: int,
    terms: StepTerms,
    *,
    with_q: bool,
) -> NDArray[np.int64]:
    """`DraftCalibration.admit` for one batch of several drafters: one schedule, and each
    drafter's rows, places in `rows`, calibrated by its own."""
    calibrated = np.empty_like(confidences)
    parts = [(one, places) for one, places in parts if len(places)]
    for one, places in parts:
        some = [rows[i] for i in places]
        calibrated[places] = one.calibrate(policy, some, confidences[places], with_q=with_q)
    lengths = policy.admit(calibrated, limits, num_requests, terms)
    for one, places in parts:
        lengths[places] = one.settle(policy, lengths[places], limits[places])
    return lengths


def _place(verification_mode: str, temperature: float) -> int:
    """In CALIBRATION_KEYS."""
    return CALIBRATION_KEYS.index(calibration_key(verification_mode, temperature))
