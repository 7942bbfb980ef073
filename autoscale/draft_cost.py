"""What drafting costs by the number of requests, learned while serving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_WEIGHT = 0.1  # of a new observation, once there are some


class DraftCost:
    """Seconds to draft for n requests: a moving mean for every n that has come up.

    Between two of them the cost is linear. Beyond the largest it goes on with the slope from
    the smallest, below the smallest it falls to it in proportion. `known_s` is what a profile
    tells, by number of requests; without it the cost is 0 at first, so that drafting is tried.
    """

    def __init__(self, known_s: Mapping[int, float] | None = None) -> None:
        self._mean_s = dict(known_s or {})
        self._num_seen: dict[int, int] = {}

    def record(self, num_requests: int, draft_s: float) -> None:
        seen = self._num_seen.get(num_requests, 0) + 1
        mean_s = self._mean_s.get(num_requests, 0.0)
        weight = max(_WEIGHT, 1 / seen)
        self._num_seen[num_requests] = seen
        self._mean_s[num_requests] = mean_s + weight * (draft_s - mean_s)

    def at(self, num_requests: int) -> float:
        """Seconds to draft for `num_requests`."""
        known = self._mean_s.get(num_requests)
        if known is not None or not self._mean_s:
            return known or 0.0
        counts = sorted(self._mean_s)
        costs_s = [self._mean_s[n] for n in counts]
        first, last = counts[0], counts[-1]
        if num_requests <= last:
            return float(np.interp(num_requests, [0, *counts], [0.0, *costs_s]))
        if first == last:
            return costs_s[-1] * num_requests / last
        slope = max(0.0, (costs_s[-1] - costs_s[0]) / (last - first))
        return costs_s[-1] + slope * (num_requests - last)
