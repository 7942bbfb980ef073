"""Decisions by request and step alone, taken before anything is drawn.

A scheduler that admits only what it believes in never learns that it was wrong about the
rest. So a small share of drafts is verified up to its full limit. Which ones follows from
the request and the engine's step counter, never from what was drafted, so verification stays
exact (design section 5, rules 1 and 3).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

EXPLORATION_RATE = 0.02  # of drafts, verified to their full limit whatever is believed of them
_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_EXPLORING, _SAMPLING = 1, 2  # decisions for different purposes must not hang together


def request_seed(request_id: str) -> int:
    """64 random bits that belong to a request: the same on every machine. Once per request."""
    return int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8).digest(), "big")


def is_held_out(seeds: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Which requests' outcomes judge a calibration instead of being fitted: half of them."""
    return (seeds & np.uint64(1)).astype(bool)


def explores(seeds: NDArray[np.uint64], steps: range, rate: float) -> NDArray[np.bool_]:
    """Bool [len(steps), R]: whose drafts are admitted to their full limit in each step.

    `seeds` [R] are those of `request_seed`, `steps` count the engine's, and `rate` is the
    share of drafts that explore, 0 to 1. Many steps cost little more than one.
    """
    salts = [(4 * step + _EXPLORING) * _GOLDEN & _MASK for step in steps]
    return _uniform(seeds, np.array(salts, dtype=np.uint64)[:, None]) < rate


def sampling_order(seeds: NDArray[np.uint64], steps: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Float64 [N] in (0, 1): what decides whether drafts are kept in a sample.

    They are of requests `seeds` [N], each of its step in `steps` [N].
    """
    return _uniform(seeds, (4 * steps + np.uint64(_SAMPLING)) * np.uint64(_GOLDEN))


def _uniform(seeds: NDArray[np.uint64], salt: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in (0, 1), by splitmix64's finaliser."""
    mixed = seeds ^ salt
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    drawn: NDArray[np.float64] = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return drawn
