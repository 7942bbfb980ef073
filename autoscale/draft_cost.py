"""What drafting costs by the number of requests, learned while serving."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_WEIGHT = 0.1  # of a new observation, once there are some
_SLOPE = 0.2  # of a further request against the first, before two counts have come up


class DraftCost:
    """Seconds to draft for n requests: a moving mean for every n that has come up.

    Between two of them the cost is linear. Beyond the largest it goes on with the slope from
    the smallest; as long as only one has come up, and below the smallest, with the slope that
    batched drafters have. `known_s` is what a profile or other replicas tell, by number of
    requests; without it the cost is 0 at first, so that drafting is tried.
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

    @property
    def mean_s(self) -> Mapping[int, float]:
        """By number of requests, what is known of it."""
        return self._mean_s

    def at(self, num_requests: int) -> float:
        """Seconds to draft for `num_requests`."""
        known = self._mean_s.get(num_requests)
        if known is not None or not self._mean_s:
            return known or 0.0
        counts = sorted(self._mean_s)
        costs_s = [self._mean_s[n] for n in counts]
        first, last = counts[0], counts[-1]
        per_request_s = _SLOPE * costs_s[0] / (1 + _SLOPE * (first - 1))
        if num_requests < first:
            return costs_s[0] - per_request_s * (first - num_requests)
        if num_requests <= last:
            return float(np.interp(num_requests, counts, costs_s))
        if first < last:
            per_request_s = max(0.0, (costs_s[-1] - costs_s[0]) / (last - first))
        return costs_s[-1] + per_request_s * (num_requests - last)
