"""Service classes: what was promised to whom, and whether it is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass


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

    def is_met(self, ttft_s: float, tpot_s: float) -> bool:
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s


BEST_EFFORT = ServiceClass("default", math.inf, math.inf, attainment=0.0)
