"""Outcomes of drafts, counted so that counts of replicas add up.

A label is conditional: of the drafts that were admitted to position k and accepted before
it, how many were accepted at k, by the confidence there. That estimates just what a
confidence means, P(accepted | those before accepted), and a scheduler does not bias it:
whether k was admitted depends on confidences up to k, which the label is conditioned on, and
never on the token there. A draft that was rejected earlier has no label at k, whether k was
admitted or not, so a rejection that is known without having been verified is not counted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_LOGIT_LIMIT = 10.0  # beyond it a confidence is as good as 0 or 1
NUM_BINS = 80
_BIN_WIDTH = 2 * _LOGIT_LIMIT / NUM_BINS
BIN_LOGITS = (np.arange(NUM_BINS) + 0.5) * _BIN_WIDTH - _LOGIT_LIMIT
"""The middle of each bin of uncalibrated confidence, as a logit."""
FIT, HELD_OUT = 0, 1
_LEAST = 1e-9


class LabelCounts:
    """Labels by half (fit, held out), position and bin of the uncalibrated confidence.

    `reached` and `accepted` are float64 [2, gamma, NUM_BINS]: drafts that were verified at
    the position with everything before accepted, and those of them accepted there too.
    """

    def __init__(self, block_size: int) -> None:
        self.reached = np.zeros((2, block_size, NUM_BINS))
        self.accepted = np.zeros((2, block_size, NUM_BINS))

    @property
    def block_size(self) -> int:
        return self.reached.shape[1]

    def num_labels(self, half: int) -> NDArray[np.float64]:
        """Per position, float64 [gamma]."""
        labels: NDArray[np.float64] = self.reached[half].sum(axis=1)
        return labels

    def add(
        self,
        confidences: NDArray[np.float64],
        num_admitted: NDArray[np.int64],
        num_accepted: NDArray[np.int64],
        held_out: NDArray[np.bool_],
    ) -> None:
        """Count drafts: uncalibrated `confidences` [R, gamma] and what became of them [R]."""
        positions = np.arange(self.block_size)
        num_reached = np.minimum(num_admitted, num_accepted + 1)
        rows, k = np.nonzero(positions < num_reached[:, None])
        c = np.clip(confidences[rows, k], _LEAST, 1 - _LEAST)
        logits = np.log(c) - np.log1p(-c)
        bins = np.clip((logits + _LOGIT_LIMIT) / _BIN_WIDTH, 0, NUM_BINS - 1).astype(np.int64)
        half = held_out[rows].astype(np.int64)
        np.add.at(self.reached, (half, k, bins), 1.0)
        np.add.at(self.accepted, (half, k, bins), k < num_accepted[rows])

    def merge(self, other: LabelCounts) -> None:
        """Add another replica's counts; the order of merging does not matter."""
        self.reached += other.reached
        self.accepted += other.accepted

    def fade(self, factor: float) -> None:
        """Let what was counted so far weigh less: `factor` is in 0 to 1."""
        self.reached *= factor
        self.accepted *= factor

    def to_plain(self) -> dict[str, list[float]]:
        """As plain lists, to be sent."""
        return {
            "reached": self.reached.ravel().tolist(),
            "accepted": self.accepted.ravel().tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any], block_size: int) -> LabelCounts:
        """Raises ValueError for lists that are not counts for this block size."""
        counts = cls(block_size)
        for name in ("reached", "accepted"):
            counted = plain_counts(plain, name, counts.reached.shape)
            setattr(counts, name, counted)
        if (counts.accepted > counts.reached).any():
            raise ValueError("more labels were accepted than reached")
        return counts


def plain_counts(plain: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The list `name` as an array. Raises ValueError naming it where it cannot be counts."""
    counted = np.asarray(plain.get(name, ()), dtype=np.float64)
    size = int(np.prod(shape))
    if counted.shape != (size,) or not (np.isfinite(counted) & (counted >= 0)).all():
        raise ValueError(f"{name} has to be a list of {size} numbers of 0 or more")
    return counted.reshape(shape)
