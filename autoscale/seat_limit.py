"""How many requests may run at once for tokens to keep coming as promised."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

MARGIN = 0.9  # of the promise, that steps may take
_MEMORY_S = 20.0  # after which what was seen weighs 1/e
_PRIOR_WEIGHT = 0.05  # of the prior slope, in spreads as wide as the mean
_LEAST_TOKENS = 32.0  # lately, before what was seen counts
_LEAST_SHARE = 8  # of all seats at least one in so many stays
_REACH = 2.0  # times as many requests as were seen lately, that the line is believed for


def least_seats(most: int) -> float:
    """Those that are kept however slow a replica is, as it would learn nothing else."""
    return max(1.0, most / _LEAST_SHARE)


def _half(running: float) -> float:
    """Which share of the time per token scales, for who has to be careful and knows no better."""
    return 0.5


class _Line(NamedTuple):
    """`mean_s` per token with `mean_n` requests, `slope_s` more with each further one."""

    mean_n: float
    mean_s: float
    slope_s: float

    def at(self, running: float) -> float:
        return max(self.mean_s + self.slope_s * (running - self.mean_n), 0.0)

    def keeping(self, tpot_s: float, most: int) -> float:
        """The most requests, up to `most`, with which tokens come within `tpot_s`."""
        fitting = float(most)
        if self.slope_s > 0:
            fitting = self.mean_n + (MARGIN * tpot_s - self.mean_s) / self.slope_s
        elif self.mean_s > tpot_s:
            fitting = 0.0
        return min(max(fitting, least_seats(most)), float(most))


class TokenTime:
    """Seconds per token of a request, a line in the number of requests that run.

    Speculation, prefill in between and the speed of the machine are all in it, as they are
    what a request sees.
    """

    def __init__(self) -> None:
        self._weight = 0.0  # tokens, faded; the others are sums weighted by them
        self._n = self._t = self._nn = self._nt = 0.0
        self._most_seen = 0.0  # requests at once, faded

    def record(self, interval_s: float, *, seat_s: float, tokens: float) -> None:
        """In `interval_s`, `tokens` came of requests that decoded for `seat_s` together."""
        kept = math.exp(-interval_s / _MEMORY_S)
        self._weight *= kept
        self._n *= kept
        self._t *= kept
        self._nn *= kept
        self._nt *= kept
        self._most_seen *= kept
        if tokens <= 0 or seat_s <= 0 or interval_s <= 0:
            return
        n, t = max(1.0, seat_s / interval_s), seat_s / tokens  # whoever got tokens was there
        self._most_seen = max(self._most_seen, n)
        self._weight += tokens
        self._n += tokens * n
        self._t += tokens * t
        self._nn += tokens * n * n
        self._nt += tokens * n * t

    def tpot_s(self, running: float) -> float | None:
        """Expected with so many requests; None while nothing is known."""
        if self._weight < _LEAST_TOKENS:
            return None
        return self._line().at(running)

    def seats(self, tpot_s: float, most: int) -> int:
        """The most requests, at least 1, with which tokens come within `tpot_s`.

        No more than twice as many as were seen lately: a burst is let in by doubling, as what
        many requests do to each other is known only when they are there.
        """
        if math.isinf(tpot_s):
            return most
        reach = max(least_seats(most), _REACH * self._most_seen)
        fitting = float(most)
        if self._weight >= _LEAST_TOKENS:
            fitting = self._line().keeping(tpot_s, most)
        return int(min(reach, fitting))

    def capacity(self, tpot_s: float, most: int, growing: Callable[[float], float]) -> float | None:
        """How many requests, each as fast as those seen lately, get as much done as the most of
        them whose tokens come within `tpot_s`; None while nothing is known.

        Those may be far more than were seen. `growing` tells of a number of requests which share
        of their time per token as many more would add: for as long as that was not seen.
        """
        if self._weight < _LEAST_TOKENS:
            return None
        line = self._line(growing)
        most_keeping = line.keeping(tpot_s, most)
        # Fewer than were seen get no more done than those.
        least_s = line.mean_s * min(most_keeping / line.mean_n, 1.0)
        return most_keeping * line.mean_s / max(line.at(most_keeping), least_s)

    def _line(self, growing: Callable[[float], float] = _half) -> _Line:
        mean_n, mean_s = self._n / self._weight, self._t / self._weight
        variance = max(self._nn / self._weight - mean_n**2, 0.0)
        covariance = self._nt / self._weight - mean_n * mean_s
        prior = _PRIOR_WEIGHT * mean_n**2
        share = growing(mean_n)
        slope_s = (covariance + prior * share * mean_s / mean_n) / (variance + prior)
        return _Line(mean_n, mean_s, max(slope_s, 0.0))
