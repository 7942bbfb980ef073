"""How many seats would be taken if everybody who came had got one."""

from __future__ import annotations

import math

MEMORY_S = 15.0  # of arrivals
_NEW = 0.05  # weight of one more request in the time on a seat


class Demand:
    """Arrivals per second times the time on a seat (Little's law), refused ones included."""

    def __init__(self) -> None:
        self._arrivals_per_s = 0.0
        self._seat_s = 0.0
        self._at_s: float | None = None

    def arrived(self, num_sequences: int, now_s: float) -> None:
        self._arrivals_per_s = self.arrivals_per_s(now_s) + num_sequences / MEMORY_S
        self._at_s = now_s

    def left(self, seat_s: float) -> None:
        """Somebody left a seat after so long."""
        self._seat_s += (seat_s - self._seat_s) * (_NEW if self._seat_s else 1.0)

    def arrivals_per_s(self, now_s: float) -> float:
        """Sequences."""
        if self._at_s is None:
            return 0.0
        return self._arrivals_per_s * math.exp(-max(now_s - self._at_s, 0.0) / MEMORY_S)

    def seats(self, now_s: float) -> float:
        return self.arrivals_per_s(now_s) * self._seat_s
