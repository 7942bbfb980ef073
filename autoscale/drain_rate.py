"""How fast seated requests are worked off."""

from __future__ import annotations

import math

_MEMORY_S = 4.0  # after which what was seen weighs 1/e
_LEAST_SEAT_S = 0.5  # of each seat: a first answer, which is slow, does not speak for many
_LEAST_WORK = 0.1
_PATIENCE_S = 4.0  # for which taken seats need show nothing: prompts are read, a step is slow


class DrainRate:
    """Work per second with every seat taken, from what the taken seats do now.

    Fewer seats do more each, so before saturation it is too high a guess: requests then wait
    in vain, instead of being refused for nothing.
    """

    def __init__(self) -> None:
        self._work = 0.0
        self._seat_s = 0.0  # up to the last work
        self._unshown_s = 0.0  # of seats since then
        self._at_s: float | None = None
        self._running = 0

    def record(self, now_s: float, *, running: int, work: float = 0.0) -> None:
        """`running` seats are taken from now on; `work` was done since the last call."""
        if self._at_s is not None:
            elapsed_s = max(0.0, now_s - self._at_s)
            kept = math.exp(-elapsed_s / _MEMORY_S)
            self._work *= kept
            self._seat_s *= kept
            self._unshown_s = self._unshown_s * kept + self._running * elapsed_s
        if work > 0:
            self._work += work
            self._seat_s += self._unshown_s
            self._unshown_s = 0.0
        self._at_s = now_s
        self._running = running

    def per_s(self, seats: int, now_s: float) -> float | None:
        """With `seats` taken; None while little is known, which is so again after a pause.

        Seats that were taken just now and show nothing yet say nothing of what they will.
        """
        if self._at_s is None or not self._work:
            return None
        elapsed_s = max(0.0, now_s - self._at_s)
        kept = math.exp(-elapsed_s / _MEMORY_S)
        unshown_s = self._unshown_s * kept + self._running * (elapsed_s - _PATIENCE_S)
        seat_s = self._seat_s * kept + max(unshown_s, 0.0)
        if seat_s < _LEAST_SEAT_S * seats:
            return None
        return max(self._work * kept, _LEAST_WORK) / seat_s * seats
