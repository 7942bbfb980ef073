"""Whether predicted survival still is what happens: a recent window and an alarm."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiles.labels import survival_labels

NUM_BINS = 10
_HALF_LIFE_LABELS = 16_000
_MIN_LABELS = 8_000  # in the window, before it says anything
_FIRE_ECE = 0.03
_CLEAR_ECE = 0.015


class SurvivalCounts:
    """Predicted survival against what survived, by position and bin of equal width.

    `labels`, `predicted` and `survived` are float64 [gamma, NUM_BINS]: how many labels, the
    sum of their predictions, and how many survived; `squares` [gamma, NUM_BINS] the sum of the
    squared weights of labels, as they fade.
    """

    def __init__(self, block_size: int) -> None:
        self.labels, self.predicted, self.survived, self.squares = np.zeros(
            (4, block_size, NUM_BINS)
        )

    @property
    def num_labels(self) -> float:
        return float(self.labels.sum())

    def add(
        self,
        survival: NDArray[np.float64],
        num_admitted: NDArray[np.int64],
        num_accepted: NDArray[np.int64],
    ) -> None:
        """Count drafts by `survival` [R, gamma] as it was predicted when they were admitted."""
        counts, survived = survival_labels(num_admitted, num_accepted, survival.shape[1])
        rows, k = np.nonzero(counts)
        predicted = survival[rows, k]
        bins = np.minimum((predicted * NUM_BINS).astype(np.int64), NUM_BINS - 1)
        np.add.at(self.labels, (k, bins), 1.0)
        np.add.at(self.squares, (k, bins), 1.0)
        np.add.at(self.predicted, (k, bins), predicted)
        np.add.at(self.survived, (k, bins), survived[rows, k])

    def merge(self, other: SurvivalCounts) -> None:
        """Add another replica's counts; the order of merging does not matter."""
        self.labels += other.labels
        self.predicted += other.predicted
        self.survived += other.survived
        self.squares += other.squares

    def fade(self, factor: float) -> None:
        """Let what was counted so far weigh less: `factor` is in 0 to 1."""
        self.labels *= factor
        self.predicted *= factor
        self.survived *= factor
        self.squares *= factor * factor

    def ece_by_position(self) -> NDArray[np.float64]:
        """Float64 [gamma]; NaN for positions without labels."""
        gaps = np.abs(self.predicted - self.survived).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(gaps / self.labels.sum(axis=1))

    @property
    def ece(self) -> float:
        """Over all labels; NaN without any."""
        if not self.num_labels:
            return float("nan")
        return float(np.abs(self.predicted - self.survived).sum() / self.num_labels)

    @property
    def expected_noise(self) -> float:
        """The ECE that this many labels show on average of perfect predictions."""
        if not self.num_labels:
            return float("nan")
        mean = self.predicted / np.maximum(self.labels, 1e-12)
        spread = np.sqrt(2 / np.pi * self.labels * mean * (1 - mean))
        return float(spread.sum() / self.num_labels)

    @property
    def ece_error(self) -> float:
        """Standard error of the ECE, rather too large: positions of a draft are taken to err
        together, as one survives only where those before it do; drafts err apart."""
        if not self.num_labels:
            return float("nan")
        mean = self.predicted / np.maximum(self.labels, 1e-12)
        by_position = np.sqrt((self.squares * mean * (1 - mean)).sum(axis=1))
        return float(by_position.sum() / self.num_labels)

    def to_plain(self) -> dict[str, list[float]]:
        """As plain lists, to be sent."""
        return {
            "labels": self.labels.ravel().tolist(),
            "predicted": self.predicted.ravel().tolist(),
            "survived": self.survived.ravel().tolist(),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any], block_size: int) -> SurvivalCounts:
        """Raises ValueError for lists that are not counts for this block size."""
        counts = cls(block_size)
        shape = counts.labels.shape
        for name in ("labels", "predicted", "survived"):
            setattr(counts, name, _counts_from(plain, name, shape))
        counts.squares = counts.labels.copy()  # what is sent has not faded
        return counts


def _counts_from(plain: dict[str, Any], name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    counted = np.asarray(plain.get(name, ()), dtype=np.float64)
    size = int(np.prod(shape))
    if counted.shape != (size,) or not (np.isfinite(counted) & (counted >= 0)).all():
        raise ValueError(f"{name} has to be a list of {size} numbers of 0 or more")
    return counted.reshape(shape)


class DriftAlarm:
    """On while predicted survival is off by more than sampling noise explains.

    The window forgets: a label weighs half after 16,000 later ones. It fires when its ECE,
    less what noise alone shows, exceeds 3 %, and clears under 1.5 %.
    """

    def __init__(self, block_size: int) -> None:
        self.active = False
        self.window = SurvivalCounts(block_size)
        self._block_size = block_size

    @property
    def excess_ece(self) -> float:
        """The window's ECE beyond sampling noise; NaN for an empty window."""
        return self.window.ece - self.window.expected_noise

    def observe(self, recent: SurvivalCounts) -> None:
        """Labels since the last call."""
        self.window.fade(0.5 ** (recent.num_labels / _HALF_LIFE_LABELS))
        self.window.merge(recent)
        if self.window.num_labels >= _MIN_LABELS:
            self.active = self.excess_ece > (_CLEAR_ECE if self.active else _FIRE_ECE)

    def restart(self) -> None:
        """Other temperatures predict from now on: an empty window, the alarm as it was."""
        self.window = SurvivalCounts(self._block_size)
