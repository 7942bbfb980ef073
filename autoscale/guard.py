"""Whether drafting pays: for the batch, and for each request. Decided before drafts exist.

Everything here comes from earlier steps (design section 5, rule 3): what drafted requests
had accepted per step and what that cost to verify, held against plain decoding at the
present number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WEIGHT = 0.1  # of a new observation, once there are some
_PROBE_WEIGHT = 0.4  # while probing: old observations may be of another kind of text
_STOP_GAIN = 1.02  # what is not measured, as colder caches, takes its share
_RESUME_GAIN = 1.08
_HOPELESS_GAIN = 0.85  # stops at once; a smaller loss only after _MIN_STEPS drafted steps
_MIN_STEPS = 8
_FIRST_PROBE_STEPS = 128  # plain steps before a probe; doubled by each that finds no gain
_MAX_PROBE_STEPS = 1024
_PROBE_LENGTH = 2  # steps
_MAX_PROBED = 4  # requests
_BASELINE_EVERY = 128  # drafted steps, of which the first ones stay plain ...
_BASELINE_LENGTH = 2  # ... so that the cost of plain decoding stays measured
_MIN_OWN_STEPS = 12  # of a request, before its own acceptance decides
_OWN_STOP_GAIN = 0.8  # its few steps say little: only a clear loss counts
_OWN_WEIGHT = 0.05
_OWN_PAUSE_STEPS = 64

Gain = Callable[[float, float], float]
"""Tokens per second with drafting over those without, from what a drafted request has
accepted and verified per step on average."""


@dataclass(slots=True)
class Achieved:
    """Moving means over drafted steps: draft tokens accepted, and draft tokens verified."""

    accepted: float = 0.0
    verified: float = 0.0
    num_seen: int = 0

    def record(self, accepted: float, verified: float, weight: float) -> None:
        self.num_seen += 1
        weight = max(weight, 1 / self.num_seen)
        self.accepted += weight * (accepted - self.accepted)
        self.verified += weight * (verified - self.verified)


@dataclass(slots=True)
class _Own:
    """A request's own moving mean, and how long it still goes without drafts."""

    accepted: float = 0.0
    num_seen: int = 0
    pause_steps: int = 0

    def record(self, accepted: float) -> None:
        self.num_seen += 1
        self.accepted += max(_OWN_WEIGHT, 1 / self.num_seen) * (accepted - self.accepted)


class Guard:
    """Stops drafting that does not pay, and probes again after a bounded number of steps."""

    def __init__(self) -> None:
        self.drafting = True
        self.num_probes = 0
        self.achieved = Achieved()
        self._own: dict[str, _Own] = {}
        self._plain_steps = 0
        self._drafted_steps = 0
        self._probe_after = _FIRST_PROBE_STEPS
        self._probe_left = 0
        self._probed = False  # since drafting last stopped

    def choose(self, candidates: Sequence[str], gain: Gain) -> Sequence[str]:
        """For which requests to ask for drafts now."""
        if not candidates:
            return ()
        expected = self._decide(gain)
        if self.drafting:
            self._drafted_steps += 1
            if (self._drafted_steps - 1) % _BASELINE_EVERY < _BASELINE_LENGTH:
                return ()
            return [id_ for id_ in candidates if self._pays(id_, expected)]
        if self._probe_left:
            self._probe_left -= 1
            return candidates[:_MAX_PROBED]
        self._plain_steps += 1
        if self._plain_steps < self._probe_after:
            return ()
        self._plain_steps = 0
        self._probe_after = min(2 * self._probe_after, _MAX_PROBE_STEPS)
        self._probe_left = _PROBE_LENGTH - 1
        self.num_probes += 1
        self._probed = True
        return candidates[:_MAX_PROBED]

    def record(self, outcomes: Sequence[tuple[str, int, int]]) -> None:
        """Draft tokens verified and accepted in a step: (request, verified, accepted)."""
        if not outcomes:
            return
        weight = _WEIGHT if self.drafting else _PROBE_WEIGHT
        for request_id, _, accepted in outcomes:
            self._own.setdefault(request_id, _Own()).record(accepted)
        self.achieved.record(
            sum(accepted for _, _, accepted in outcomes) / len(outcomes),
            sum(verified for _, verified, _ in outcomes) / len(outcomes),
            weight,
        )

    def forget(self, request_id: str) -> None:
        self._own.pop(request_id, None)

    def _decide(self, gain: Gain) -> float:
        """Stop or resume for the batch, with hysteresis; the load alone may turn it.

        Returns the gain that drafting is expected to bring.
        """
        if not self.achieved.num_seen:
            return math.inf
        expected = gain(self.achieved.accepted, self.achieved.verified)
        enough = self.achieved.num_seen >= _MIN_STEPS or expected <= _HOPELESS_GAIN
        if self.drafting and enough and expected <= _STOP_GAIN:
            self.drafting = False
            self._plain_steps = 0
            self._probe_left = 0
            self._probed = False
        elif not self.drafting and expected >= _RESUME_GAIN:
            self.drafting = True
            if self._probed:  # not where the load alone has fallen
                self._probe_after = _FIRST_PROBE_STEPS
        return expected

    def _pays(self, request_id: str, expected: float) -> bool:
        """Whether a request's own acceptance is worth drafting for it.

        `expected` is the batch's gain; one of requests like this would gain in proportion
        to the tokens it commits per step.
        """
        own = self._own.get(request_id)
        if own is None:
            return True
        if own.pause_steps:
            own.pause_steps -= 1
            return False
        committed = (1 + own.accepted) / (1 + self.achieved.accepted)
        if own.num_seen < _MIN_OWN_STEPS or expected * committed > _OWN_STOP_GAIN:
            return True
        self._own[request_id] = _Own(pause_steps=_OWN_PAUSE_STEPS)
        return False
