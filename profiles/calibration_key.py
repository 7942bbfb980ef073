"""What a calibration depends on besides the model and the drafter."""

from __future__ import annotations

from bisect import bisect_left
from itertools import product
from typing import NamedTuple

VERIFICATION_MODES = ("greedy", "one-hot", "q")
"""How a draft token is verified: it is the target's first choice; accepted with p(x); or
accepted with min(1, p(x) / q(x))."""

TEMPERATURE_EDGES = (0.0, 0.4, 0.8, 1.2)
TEMPERATURE_BINS = ("0", "0-0.4", "0.4-0.8", "0.8-1.2", "1.2-")
"""Sampling temperatures of requests, each bin without its lower edge."""


class CalibrationKey(NamedTuple):
    """One calibration of a drafting pair: both are among the names above."""

    verification_mode: str
    temperature_bin: str

    def __str__(self) -> str:
        return f"{self.verification_mode}/{self.temperature_bin}"


CALIBRATION_KEYS = tuple(
    CalibrationKey(*names) for names in product(VERIFICATION_MODES, TEMPERATURE_BINS)
)
"""All there are; a key's place in here stands for it in arrays."""


def calibration_key(verification_mode: str, sampling_temperature: float) -> CalibrationKey:
    """The key of a request. Raises ValueError for an unknown mode."""
    if verification_mode not in VERIFICATION_MODES:
        raise ValueError(f"verification_mode {verification_mode!r} is not in {VERIFICATION_MODES}")
    bin_index = bisect_left(TEMPERATURE_EDGES, max(0.0, sampling_temperature))
    return CalibrationKey(verification_mode, TEMPERATURE_BINS[bin_index])
