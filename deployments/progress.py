"""Whether an engine makes progress: results of steps keep coming, or a probe comes back.

Time is counted in ticks of the watch and not by a clock: a process that was stopped and goes
on, or whose clock jumped, has not seen its engine being silent.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

TICK_S = 1.0


class Verdict(Enum):
    """What the watch makes of the last tick."""

    FINE = "fine"
    PROBE = "probe"  # send one token through the engine, past nobody: any result will do
    WEDGED = "wedged"


@dataclass(slots=True)
class ProgressWatch:
    """One engine, told of at every tick.

    An engine from which nothing has come for `limit_s`, although a probe has been under way
    for half of that, is wedged. One that is full is not: its steps bring results, whoever
    waits.
    """

    limit_s: float
    _silent_ticks: int = 0
    _seen: int = 0
    _probed: bool = False

    def tick(self, num_results: int) -> Verdict:
        """`num_results` have come from the engine since it began."""
        if num_results != self._seen:
            self._seen, self._silent_ticks, self._probed = num_results, 0, False
            return Verdict.FINE
        self._silent_ticks += 1
        silent_s = self._silent_ticks * TICK_S
        if not self._probed and silent_s >= self.limit_s / 2:
            self._probed = True
            return Verdict.PROBE
        if silent_s >= self.limit_s and self._probed:
            return Verdict.WEDGED
        return Verdict.FINE
