"""Confidences that err grossly, put right on the spot.

Calibrations are learned by the fleet, from thousands of drafts. A head that has drifted far off
stops drafting long before: one that believes in nothing has nothing verified, one that believes in
everything has drafting stopped. So the log-odds of all confidences of an engine are shifted at
once where the outcomes of its last drafts are far from what was said, and only there. The order
within a draft stays, and nothing of it depends on a token that is drawn now (design section 5,
rules 1 and 4).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

_EVERY = 8  # steps of many requests: many at once cost a fraction ...
_FEW = 4  # ... and so many drafts of few requests, as a probe's
_MEMORY = 128.0  # tokens
_MIN_TRIED = 8.0  # tokens
_SURELY = 4.0  # standard deviations of independent tokens; those of a draft are not
_MAX_SHIFT = 6.0  # log-odds
_LEAST, _MOST = 0.01, 0.99  # what is 0 or 1 could not be shifted


class ConfidenceShift:
    """Learns how far confidences are off, by outcomes of verified drafts."""

    def __init__(self) -> None:
        self.log_odds = 0.0
        self._pending: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
        # Of recent tokens, fading: those tried, and of them accepted, as said, and its variance.
        self._tried = self._accepted = self._said = self._variance = 0.0

    def restart(self) -> None:
        """Confidences are made in another way from now on."""
        self.log_odds = 0.0
        self._pending.clear()
        self._begin()

    def apply(self, confidences: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shifted `confidences`, any shape; as they are while nothing is wrong."""
        if not self.log_odds:
            return confidences
        odds = math.exp(self.log_odds)
        bounded = np.minimum(np.maximum(confidences, _LEAST), _MOST)
        shifted: NDArray[np.float64] = odds * bounded / (1 + (odds - 1) * bounded)
        return shifted

    def record(self, confidences: NDArray[np.float64], became: NDArray[np.int64]) -> None:
        """What a step made of drafts whose confidences [R, gamma] were given to `apply`: tokens
        admitted and accepted, int64 [R, 2]. The arrays are kept for some steps, not copied."""
        self._pending.append((confidences, became))
        num_drafts, num_steps = len(became), len(self._pending)
        if num_steps * num_drafts >= (_FEW if num_drafts <= _FEW else _EVERY * num_drafts):
            confidences, became = map(np.concatenate, zip(*self._pending, strict=True))
            self._pending.clear()
            self._learn(confidences, became[:, 0], became[:, 1])

    def _learn(
        self,
        confidences: NDArray[np.float64],
        num_admitted: NDArray[np.int64],
        num_accepted: NDArray[np.int64],
    ) -> None:
        num_tried = num_accepted + (num_accepted < num_admitted)
        was_tried = np.arange(confidences.shape[1]) < num_tried[:, None]
        said = self.apply(confidences[was_tried])
        if not len(said):
            return
        kept = math.exp(-len(said) / _MEMORY)
        self._tried = kept * self._tried + len(said)
        self._accepted = kept * self._accepted + float(num_accepted.sum())
        self._said = kept * self._said + float(said.sum())
        self._variance = kept * self._variance + float((said * (1 - said)).sum())
        surprise = abs(self._accepted - self._said)
        if self._tried >= _MIN_TRIED and surprise > _SURELY * math.sqrt(self._variance + 1.0):
            moved = _log_odds(self._accepted, self._tried) - _log_odds(self._said, self._tried)
            self.log_odds = min(max(self.log_odds + moved, -_MAX_SHIFT), _MAX_SHIFT)
            self._begin()

    def _begin(self) -> None:
        """What was counted is no longer of confidences as they are now."""
        self._tried = self._accepted = self._said = self._variance = 0.0


def _log_odds(part: float, total: float) -> float:
    return math.log((part + 0.5) / (total - part + 0.5))
