"""A canary inside a target's worker: its drafter, its calibration, and what becomes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.canary import CanaryWatch, joins_canary
from autoscale.policies import Policy, StepTerms
from deployments.engine.draft_calibration import DraftCalibration, admit_together
from drafters.canary_source import CanarySource
from drafters.messages import StepRow
from drafters.sources import RemoteDraftSource


@dataclass(frozen=True, slots=True)
class CanaryOrder:
    """What a plan says of a canary: its name, where its drafter is, its share of sessions, and
    whether that was decided for good.

    `calibrations` are those of its pair (`autoscale.calibration_messages`).
    """

    name: str
    address: str
    key: str | None
    share: float
    is_promoted: bool
    calibrations: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> CanaryOrder:
        """Raises ValueError for what is none."""
        try:
            order = cls(**plain)
        except TypeError as error:
            raise ValueError(f"a canary's order is malformed: {error}") from None
        if not (isinstance(order.share, int | float) and 0 <= order.share <= 1):
            raise ValueError(f"a canary's share is {order.share!r}, not from 0 to 1")
        if not isinstance(order.is_promoted, bool):
            raise ValueError(f"a canary is promoted or not, and not {order.is_promoted!r}")
        return order


class CanaryArm:
    """Made where a canary begins; gone where it ends, and with it the new drafter's sessions."""

    def __init__(
        self,
        name: str,
        serving: RemoteDraftSource,
        canary: RemoteDraftSource,
        *,
        block_size: int,
        known: Collection[str],
    ) -> None:
        """`known` are requests whose sessions the serving drafter has."""
        self.name = name
        self.share = 0.0
        self.is_promoted = False
        self.calibration = DraftCalibration(block_size)
        self._watch = CanaryWatch()
        self.source = CanarySource(serving, canary, self._joins, known, self._waited)

    def record(self, verified: Sequence[tuple[str, int, int]]) -> None:
        """What a step made of its drafts."""
        self._watch.record(verified, self.source.canary_ids)
        self.calibration.record(verified)

    def end(self, request_ids: Iterable[str]) -> None:
        """Requests that left."""
        for request_id in request_ids:
            self._watch.end(request_id)
            self.calibration.forget(request_id)

    def admit(
        self,
        serving: DraftCalibration,
        policy: Policy,
        rows: Sequence[StepRow],
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms,
        *,
        with_q: bool,
    ) -> NDArray[np.int64]:
        """One schedule for both drafters' rows; see `DraftCalibration.admit`."""
        is_canarys = np.array([row.request_id in self.source.canary_ids for row in rows])
        return admit_together(
            (
                (serving, np.flatnonzero(~is_canarys)),
                (self.calibration, np.flatnonzero(is_canarys)),
            ),
            policy,
            rows,
            confidences,
            limits,
            num_requests,
            terms,
            with_q=with_q,
        )

    def snapshot(self) -> dict[str, Any]:
        """What was counted so far, and what a new controller has to know."""
        return {
            "name": self.name,
            "share": self.share,
            "is_promoted": self.is_promoted,
            **self._watch.to_plain(),
        }

    def _joins(self, request_id: str) -> bool:
        return joins_canary(request_id, self.share)

    def _waited(self, is_canary: bool, wait_s: float | None) -> None:
        (self._watch.canary if is_canary else self._watch.serving).waited(wait_s)
