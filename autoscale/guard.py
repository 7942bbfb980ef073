"""Whether drafting pays: for the batch, and for each request. Decided before drafts exist.

Everything here comes from earlier steps (design section 5, rule 3): what drafted requests
had accepted per step and what that cost to verify, held against plain decoding at the
present number of requests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from autoscale.own_acceptance import MEMORY, OwnAcceptance, doubt_of

_MAX_WEIGHT = 0.1  # 10 steps that a mean looks back on at least: drafts of one step are alike
_STOP_GAIN = 1.02  # what is not measured, as colder caches, takes its share
_RESUME_GAIN = 1.08
_FIRST_PROBE_STEPS = 128  # plain steps before a probe; doubled by each that finds no gain
_MAX_PROBE_STEPS = 1024
_WHOLE_DRAFTS = 8  # that a probe wants to see verified whole, whatever is believed of them, ...
_PROBE_DRAFTS = 8  # ... and then as they are scheduled, within _MAX_PROBE_LENGTH steps
_MAX_PROBE_LENGTH = 18
_MAX_PROBED = 4  # requests
_BASELINE_EVERY = 128  # drafted steps, of which the first ones stay plain ...
_BASELINE_LENGTH = 2  # ... so that the cost of plain decoding stays measured
_OWN_STOP_GAIN = 0.8  # its few drafts say little: only a clear loss counts
_OTHER_LOAD = 0.5  # of the requests there were: what was found then says little now

Gain = Callable[[float, float, float], float]
"""Tokens per second with drafting over those without, from what a drafted request has
accepted and verified per step on average, and the share of requests that is drafted for."""


@dataclass(slots=True)
class Achieved:
    """Moving means per draft: its tokens accepted, and its tokens verified.

    `share` of the requests had a draft: those that are left out commit no more than plain
    decoding does.
    """

    accepted: float = 0.0
    verified: float = 0.0
    num_drafts: int = 0
    share: float = 1.0

    def add(self, num_drafts: int, verified: int, accepted: int) -> None:
        """Drafts of one step, and their tokens verified and accepted together."""
        n = num_drafts
        self.num_drafts += n
        weight = max(min(n / MEMORY, _MAX_WEIGHT), n / self.num_drafts)
        self.accepted += weight * (accepted / n - self.accepted)
        self.verified += weight * (verified / n - self.verified)

    @property
    def doubt(self) -> float:
        """How much higher `accepted` may well be, as yet few drafts were seen."""
        return doubt_of(self.num_drafts)


@dataclass(slots=True)
class _Probe:
    """Of few requests for few steps, whether drafting pays again."""

    num_steps: int = 0
    whole: Achieved = field(default_factory=Achieved)  # by drafts that were verified whole,
    achieved: Achieved = field(default_factory=Achieved)  # and by those that were scheduled

    @property
    def wants_whole_drafts(self) -> bool:
        return self.whole.num_drafts < _WHOLE_DRAFTS

    @property
    def is_answered(self) -> bool:
        return self.whole.verified > 0

    def is_over(self, gain: Gain) -> bool:
        """Also where whole drafts would not pay if it cost nothing to verify them."""
        if self.num_steps >= _MAX_PROBE_LENGTH or self.achieved.num_drafts >= _PROBE_DRAFTS:
            return True
        has_seen_some = self.whole.num_drafts >= _WHOLE_DRAFTS // 2
        return has_seen_some and gain(self.whole.accepted, 0.0, 1.0) < _RESUME_GAIN

    def record(self, num_drafts: int, verified: int, accepted: int) -> None:
        seen = self.whole if self.wants_whole_drafts else self.achieved
        seen.add(num_drafts, verified, accepted)


class Guard:
    """Stops drafting that does not pay, and probes again after a bounded number of steps.

    A probe asks for few requests. Its first drafts are verified whole, so that a confidence
    head that believes in nothing is found out too; what those behind them achieve decides. Where
    drafting pays again and a probe sees it, it is back after at most 1,024 plain steps and the
    probe's 18; at once where the load has fallen to half; after 128 and 18 where drafting had
    lasted as long before it stopped, or where nobody answered until now.

    `accepted` and `verified` are draft tokens per draft as others saw them in `num_drafts`:
    with enough of them the first looks at whether drafting pays are spared.
    """

    def __init__(self, accepted: float = 0.0, verified: float = 0.0, num_drafts: int = 0) -> None:
        self.drafting = True
        self.num_probes = 0
        self.achieved = Achieved(accepted, verified, min(num_drafts, MEMORY))
        self._own = OwnAcceptance()
        self._plain_steps = 0
        self._found_at = 0  # requests, when drafting was last found not to pay
        self._drafted_steps = 0
        self._probe_after = _FIRST_PROBE_STEPS
        self._resumed_at = 0  # drafted steps
        self._probe: _Probe | None = None  # in progress

    @property
    def wants_whole_drafts(self) -> bool:
        """Whether the drafts that were asked for last are verified up to their limits."""
        return self._probe is not None and self._probe.wants_whole_drafts

    def pauses(self, gain: Gain, num_requests: int) -> bool:
        """Whether drafting has stopped, stays so at the present load, and no probe is due.

        Where it pauses, the step counts as a plain one.
        """
        if not self.drafting:
            self._decide(gain, num_requests)
        if self.drafting or self._probe is not None or self._plain_steps + 1 >= self._probe_after:
            return False
        self._plain_steps += 1
        return True

    def choose(self, candidates: Sequence[str], gain: Gain, num_requests: int) -> Sequence[str]:
        """For which of the candidates, of `num_requests` in the step, to ask for drafts now."""
        if not candidates:
            return ()
        expected = self._decide(gain, num_requests)
        if self.drafting:
            self._drafted_steps += 1
            if (self._drafted_steps - 1) % _BASELINE_EVERY < _BASELINE_LENGTH:
                return ()
            if self.achieved.num_drafts < _PROBE_DRAFTS:  # nothing is known yet: a probe too
                return candidates[:_MAX_PROBED]
            enough = _OWN_STOP_GAIN * (1 + self.achieved.accepted) / max(expected, 1e-9) - 1
            return self._own.paying(candidates, enough)
        if self._probe is None:
            self._plain_steps += 1
            if self._plain_steps < self._probe_after:
                return ()
            self._probe = _Probe()
            self.num_probes += 1
        self._probe.num_steps += 1
        return self._sample(candidates)

    def _sample(self, candidates: Sequence[str]) -> Sequence[str]:
        """Whom a probe asks: others than the one before it, as some never pay."""
        first = (self.num_probes - 1) * _MAX_PROBED
        n = len(candidates)
        return [candidates[(first + i) % n] for i in range(min(n, _MAX_PROBED))]

    def record(self, outcomes: Sequence[tuple[str, int, int]], num_requests: int) -> None:
        """Draft tokens verified and accepted in a step: (request, verified, accepted)."""
        if not outcomes:
            return
        probe = self._probe
        is_sample = probe is not None or self.achieved.num_drafts < _PROBE_DRAFTS
        if not is_sample:  # of few requests, that stand for all
            share = min(len(outcomes) / num_requests, 1.0)
            self.achieved.share += _MAX_WEIGHT * (share - self.achieved.share)
        self._own.record(outcomes)
        _, sent, kept = zip(*outcomes, strict=True)
        verified, accepted = sum(sent), sum(kept)
        if probe is None or not probe.wants_whole_drafts:
            self.achieved.add(len(outcomes), verified, accepted)
        if probe is not None:
            probe.record(len(outcomes), verified, accepted)

    def forget(self, request_id: str) -> None:
        self._own.forget(request_id)

    def _decide(self, gain: Gain, num_requests: int) -> float:
        """Stop or resume for the batch, with hysteresis; the load alone may turn it.

        Returns the gain that drafting is expected to bring.
        """
        seen = self.achieved
        if not seen.num_drafts:
            return math.inf
        if not self.drafting and num_requests <= _OTHER_LOAD * self._found_at:
            self._ask_again(num_requests)
        expected = gain(seen.accepted, seen.verified, seen.share)
        if self.drafting:
            doubt = seen.doubt
            at_best = gain(seen.accepted + doubt, seen.verified, seen.share) if doubt else expected
            if at_best <= _STOP_GAIN:
                self._stop(num_requests)
        elif expected >= _RESUME_GAIN:
            self._resume()
        elif self._probe is not None and self._probe.is_over(gain):
            expected = self._end_probe(self._probe, gain)
            self._found_at = max(self._found_at, num_requests)
        return expected

    def _ask_again(self, num_requests: int) -> None:
        """The load has fallen far below where drafting did not pay: a probe is due at once."""
        self._found_at = num_requests
        self.achieved.share = 1.0
        self._probe_after = _FIRST_PROBE_STEPS
        self._plain_steps = _FIRST_PROBE_STEPS

    def _stop(self, num_requests: int) -> None:
        self.drafting = False
        self._plain_steps = 0
        self._found_at = num_requests
        if self._drafted_steps - self._resumed_at >= _FIRST_PROBE_STEPS:
            self._probe_after = _FIRST_PROBE_STEPS

    def _resume(self) -> None:
        """Draft again. Until that has lasted, it counts as a probe that found nothing."""
        self.drafting = True
        self._probe = None
        self._resumed_at = self._drafted_steps
        self._probe_after = min(2 * self._probe_after, _MAX_PROBE_STEPS)

    def _end_probe(self, probe: _Probe, gain: Gain) -> float:
        """Resume where the probe saw a gain, else wait twice as long for the next; as long as at
        first where nobody answered, which says nothing."""
        self._probe = None
        self._plain_steps = 0
        seen = probe.achieved
        found = gain(seen.accepted, seen.verified, 1.0) if seen.num_drafts else 0.0
        if found >= _RESUME_GAIN:
            self.achieved = seen  # the text is of another kind than before
            self._resume()
        elif probe.is_answered:
            self._probe_after = min(2 * self._probe_after, _MAX_PROBE_STEPS)
        else:
            self._probe_after = _FIRST_PROBE_STEPS
        return found
