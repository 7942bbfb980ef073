"""How many requests may run at once for tokens to keep coming as promised."""

from __future__ import annotations

import math

_MEMORY_S = 20.0  # after which what was seen weighs 1/e
_PRIOR_SLOPE = 0.5  # of the mean, while requests were always as many: half of it scales
_PRIOR_WEIGHT = 0.05  # of the prior slope, in spreads as wide as the mean
_MARGIN = 0.9  # of the promise, that steps may take
_LEAST_TOKENS = 32.0  # lately, before what was seen counts
_LEAST_SHARE = 8  # of all seats at least one in so many stays
_REACH = 2.0  # times as many requests as were seen lately, that the line is believed for


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
        n, t = seat_s / interval_s, seat_s / tokens
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
        mean_n, mean_t, slope = self._line()
        return max(mean_t + slope * (running - mean_n), 0.0)

    def seats(self, tpot_s: float, most: int) -> int:
        """The most requests, at least 1, with which tokens come within `tpot_s`.

        No more than twice as many as were seen lately: a burst is let in by doubling, as what
        many requests do to each other is known only when they are there.
        """
        if math.isinf(tpot_s):
            return most
        least = most / _LEAST_SHARE
        reach = max(least, _REACH * self._most_seen)
        fitting = reach
        if self._weight >= _LEAST_TOKENS:
            mean_n, mean_t, slope = self._line()
            if slope > 0:
                fitting = mean_n + (_MARGIN * tpot_s - mean_t) / slope
            elif mean_t > tpot_s:
                fitting = least
        return max(1, int(min(max(fitting, least), reach, most)))

    def _line(self) -> tuple[float, float, float]:
        """Mean number of requests, mean seconds, seconds per further request."""
        mean_n, mean_t = self._n / self._weight, self._t / self._weight
        variance = max(self._nn / self._weight - mean_n**2, 0.0)
        covariance = self._nt / self._weight - mean_n * mean_t
        prior = _PRIOR_WEIGHT * mean_n**2
        slope = (covariance + prior * _PRIOR_SLOPE * mean_t / mean_n) / (variance + prior)
        return mean_n, mean_t, max(slope, 0.0)
