"""A bounded sample of drafts that forgets, and whose parts at many replicas add up.

Sequential temperature scaling needs the confidences of a draft together: counts by position
would have to take the actual outcome before a position for its predicted survival, and
calibrate something else wherever a later confidence betrays an earlier rejection.

Every draft gets a priority, its time in units of the memory plus Gumbel noise, and the
highest stay. So the sample is one without replacement in which a draft's weight falls by e
with every `MEMORY_S` of age (Efraimidis and Spirakis, 2006; forward decay, Cormode et al.,
2009). Only new drafts displace old ones: an idle fleet forgets nothing. Merging two samples
keeps the highest of both, hence does not depend on the order, and merging one twice adds
nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

MEMORY_S = 300.0


def priorities(
    order: NDArray[np.float64], now_s: NDArray[np.float64] | float
) -> NDArray[np.float64]:
    """Priorities [R] of drafts verified at `now_s`; `order` [R] is uniform in (0, 1)."""
    gumbel: NDArray[np.float64] = -np.log(-np.log(order))
    return now_s / MEMORY_S + gumbel


@dataclass(frozen=True, slots=True)
class DraftSample:
    """Drafts and what became of them, highest priority first.

    `confidences` float32 [N, gamma] are uncalibrated; `priority` float64, `num_admitted` and
    `num_accepted` int64, and `held_out` bool are [N].
    """

    priority: NDArray[np.float64]
    confidences: NDArray[np.float32]
    num_admitted: NDArray[np.int64]
    num_accepted: NDArray[np.int64]
    held_out: NDArray[np.bool_]

    @classmethod
    def empty(cls, block_size: int) -> DraftSample:
        none = np.zeros(0, dtype=np.int64)
        return cls(
            np.zeros(0), np.zeros((0, block_size), dtype=np.float32), none, none, none.astype(bool)
        )

    def __len__(self) -> int:
        return len(self.priority)

    def dated(self, by_s: float) -> DraftSample:
        """As by a clock that is so much ahead: from dates to ages, and by another clock back."""
        return replace(self, priority=self.priority + by_s / MEMORY_S)

    def half(self, *, held_out: bool) -> DraftSample:
        """The drafts of requests that judge a calibration, or of those it is fitted on."""
        return self._take(np.flatnonzero(self.held_out == held_out))

    @classmethod
    def merge(cls, samples: Sequence[DraftSample], capacity: int) -> DraftSample:
        """The `capacity` drafts of highest priority among one or more samples, each once."""
        columns = ([getattr(one, field.name) for one in samples] for field in fields(cls))
        together = cls(*map(np.concatenate, columns))
        _, first = np.unique(-together.priority, return_index=True)
        return together._take(first[:capacity])

    def to_plain(self) -> dict[str, list[Any]]:
        """As plain lists, to be sent."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}

    @classmethod
    def from_plain(cls, plain: dict[str, Any], block_size: int) -> DraftSample:
        """Raises ValueError for what cannot be a sample of drafts of this block size."""
        try:
            sample = cls(
                np.array(plain["priority"], dtype=np.float64),
                np.array(plain["confidences"], dtype=np.float32).reshape(-1, block_size),
                np.array(plain["num_admitted"], dtype=np.int64),
                np.array(plain["num_accepted"], dtype=np.int64),
                np.array(plain["held_out"], dtype=bool),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"a sample of drafts is malformed: {error!r}") from None
        columns = [getattr(sample, field.name) for field in fields(cls)]
        if {column.shape[:1] for column in columns} != {(sample.priority.size,)}:
            raise ValueError("the columns of a sample of drafts differ in length")
        admitted, accepted, c = sample.num_admitted, sample.num_accepted, sample.confidences
        in_order = (accepted >= 0) & (accepted <= admitted) & (admitted <= block_size)
        possible = np.isfinite(sample.priority) & ((c >= 0) & (c <= 1)).all(axis=1)
        if not (in_order & possible).all():
            raise ValueError("a sample has drafts that cannot be: counts or confidences")
        return sample

    def _take(self, rows: NDArray[np.int64]) -> DraftSample:
        return DraftSample(*(getattr(self, field.name)[rows] for field in fields(self)))
