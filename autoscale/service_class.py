"""Service classes: what was promised to whom, and whether it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Of the promised time to the first token, that a request may wait for a seat: what comes before
# the gate, and behind the first token, is not seen there and takes its time on busy machines.
_WAIT_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A promise: the first token within `ttft_s`, then one every `tpot_s` on average.

    `attainment` is the share of requests for which both are to hold. Where requests have to
    wait, those of higher `priority` go first, and classes of one priority share by `weight`.
    A class takes at most `max_seat_share` of a replica's seats.
    """

    name: str
    ttft_s: float
    tpot_s: float
    attainment: float = 0.95
    priority: int = 0
    weight: float = 1.0
    max_seat_share: float = 1.0

    @property
    def longest_wait_s(self) -> float:
        """For a seat, before the promise is past keeping."""
        return _WAIT_SHARE * self.ttft_s

    def is_met(self, ttft_s: float, tpot_s: float) -> bool:
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s


BEST_EFFORT = ServiceClass("default", math.inf, math.inf, attainment=0.0)
