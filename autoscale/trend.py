"""How a level has moved, and where it is going."""

from __future__ import annotations

import math
from dataclasses import dataclass

HORIZON_S = 60.0  # about what a replica takes to come up
_MOST_GROWTH = 2.0
_MEMORY_S = 30.0


@dataclass(frozen=True, slots=True)
class Trend:
    """A level as it was, smoothed, with its slope per second."""

    level: float
    per_s: float
    at_s: float

    def followed(self, level: float, now_s: float) -> Trend:
        """After a look at `now_s`; begun anew where that is before the last one, as the clock
        was set back."""
        elapsed_s = now_s - self.at_s
        if elapsed_s < 0:
            return Trend(level, 0.0, now_s)
        if not elapsed_s > 0:
            return self
        weight = 1 - math.exp(-elapsed_s / _MEMORY_S)
        smoothed = self.level + weight * (level - self.level)
        per_s = (smoothed - self.level) / elapsed_s
        return Trend(smoothed, self.per_s + weight * (per_s - self.per_s), now_s)


def expected_level(level: float, trend: Trend) -> float:
    """Where a level will be in `HORIZON_S`; a fall is not expected, nor more than twice as much."""
    growth = max(trend.per_s, 0.0) * HORIZON_S
    return min(level + growth, _MOST_GROWTH * level)


def lasting_level(level: float, trend: Trend) -> float:
    """The same for who should not follow every dip: no lower than it was lately on average, nor
    more than twice what it is."""
    return min(max(expected_level(level, trend), trend.level), _MOST_GROWTH * level)
