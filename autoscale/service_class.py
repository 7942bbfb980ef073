"""Service classes: what was promised to whom, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServiceClass:
    """A promise: the first token within `ttft_s`, then one every `tpot_s` on average.

    `attainment` is the share of requests for which both are to hold.
    """

    name: str
    ttft_s: float
    tpot_s: float
    attainment: float = 0.95

    def is_met(self, ttft_s: float, tpot_s: float) -> bool:
        return ttft_s <= self.ttft_s and tpot_s <= self.tpot_s
