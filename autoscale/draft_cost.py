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

    What was known before, told or seen before the last `doubt`, follows what is seen: it keeps
    its shape, takes the level of the last count that came up, and counts only where it says
    less than the line through those does. So what was once slow is tried again.
    """

    def __init__(self, known_s: Mapping[int, float] | None = None) -> None:
        self._known_s = dict(known_s or {})
        self._level = 1.0  # of the costs now over those
        self._mean_s: dict[int, float] = {}
        self._num_seen: dict[int, int] = {}
        self._guesses_s: dict[int, float] = {}  # of counts that have not come up

    def record(self, num_requests: int, draft_s: float) -> None:
        seen = self._num_seen.get(num_requests, 0) + 1
        mean_s = self._mean_s.get(num_requests, 0.0)
        weight = max(_WEIGHT, 1 / seen)
        mean_s += weight * (draft_s - mean_s)
        self._num_seen[num_requests] = seen
        self._mean_s[num_requests] = mean_s
        if self._known_s:
            known_s = _on_line(self._known_s, num_requests)
            self._level = mean_s / known_s if known_s > 0 else 1.0
        self._guesses_s.clear()

    def doubt(self) -> None:
        """Drafting has paused: what was seen so far may hold no longer."""
        self._known_s = dict(self.mean_s)
        self._level = 1.0
        self._mean_s.clear()
        self._num_seen.clear()
        self._guesses_s.clear()

    @property
    def mean_s(self) -> Mapping[int, float]:
        """By number of requests, what is known of it."""
        return {n: self.at(n) for n in self._known_s.keys() | self._mean_s.keys()}

    def at(self, num_requests: int) -> float:
        """Seconds to draft for `num_requests`."""
        seen_s = self._mean_s.get(num_requests)
        if seen_s is not None:
            return seen_s
        guess_s = self._guesses_s.get(num_requests)
        if guess_s is None:
            guess_s = self._guesses_s[num_requests] = self._guess_s(num_requests)
        return guess_s

    def _guess_s(self, num_requests: int) -> float:
        guesses_s = []
        if self._known_s:
            guesses_s.append(self._level * _on_line(self._known_s, num_requests))
        if self._mean_s:
            guesses_s.append(_on_line(self._mean_s, num_requests))
        return min(guesses_s, default=0.0)


def _on_line(known_s: Mapping[int, float], num_requests: int) -> float:
    """Between and beyond what is known of some counts, one or more."""
    known = known_s.get(num_requests)
    if known is not None:
        return known
    counts = sorted(known_s)
    costs_s = [known_s[n] for n in counts]
    first, last = counts[0], counts[-1]
    per_request_s = _SLOPE * costs_s[0] / (1 + _SLOPE * (first - 1))
    if num_requests < first:
        return costs_s[0] - per_request_s * (first - num_requests)
    if num_requests <= last:
        return float(np.interp(num_requests, counts, costs_s))
    if first < last:
        per_request_s = max(0.0, (costs_s[-1] - costs_s[0]) / (last - first))
    return costs_s[-1] + per_request_s * (num_requests - last)
