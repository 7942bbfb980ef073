"""A step-cost table, corrected by what steps in service take.

Every step tells something about steps of its own size, less about those of other sizes, and
something about all: the machine may be slower than the profile says, or scheduling, sampling and
output may come on top. So the correction is a Gaussian process over the logarithm of the number
of tokens, with an overhead, a cost of context and one of prompts beside it, and every step is
one update of a Kalman filter. A step that reads prompts takes what its decoding takes, and what
its prompt tokens would add by the profile, times a correction of their own. What one size is
seen to take moves the sizes that are no longer visited by as much as they have been alike. An
outlier pulls as far as three standard deviations would; after a pause, in which the machine may
have become another, it is taken for news of all sizes. What is old is forgotten, towards the
profile.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.step_cost import StepCostTable

# Prior standard deviations, relative to the profile's cost of a step ...
_COMMON = 0.4  # ... of all sizes together,
_LOCAL = 0.15  # of a size by itself,
_ALIKE = 2.0  # sizes this many doublings apart differ by themselves to 1 - 1/e,
_PROMPT = 0.5  # of what prompt tokens add, in logits and attention unlike draft tokens,
_OVERHEAD = 0.5  # of what comes on top, in smallest steps,
_CONTEXT = 0.5  # and of _CONTEXT_UNIT tokens of context, in smallest steps.
_CONTEXT_UNIT = 8192
_NOISE = 0.05**2  # variance of a step's relative cost, at first
_NOISES = (0.01**2, 0.3**2)
_NOISE_WEIGHT = 0.02
_WORST_ERROR = 4.0  # of a step that counts: stalls say nothing of what is believed
_OUTLIER = 3.0
_DOUBTED_STEPS = 4
_FORGET_EVERY = 16  # steps
_MEMORY = 4096  # steps, after which what was learned weighs 1/e
_LEAST = 0.2  # of the profile: no step is believed to take less


class _Size(NamedTuple):
    """What never changes of steps of so many tokens."""

    profile_s: float  # without what requests and their context add
    left: int  # the entry at or below
    share: float  # how far it is to the next, 0 to 1


class LiveStepCost:
    """Seconds of a step, from `profile` and from what `record` was told."""

    def __init__(self, profile: StepCostTable) -> None:
        self.profile = profile
        self.num_steps = 0
        self._doubted_steps = 0  # that are still to come
        self._log_n = [math.log2(n) for n in profile.n_tokens]
        self._sizes: dict[int, _Size] = {}  # that came up, at most an engine's largest step
        self._prior = _prior(np.array(self._log_n))
        self._covariance = self._prior.copy()
        # Relative corrections at the table's entries and of prompts, then overhead and cost of
        # context.
        self._correction = np.zeros(len(self._prior))
        self._known = self._correction.tolist()  # the same, for one look-up at a time
        self._noises = [_NOISE, _NOISE]  # of steps without and with prompts
        self._error = math.sqrt(_NOISE)  # relative, by which steps miss what was believed of them
        self._visits = np.zeros(len(self._log_n))

    def record(
        self,
        n_tokens: int,
        step_s: float,
        num_requests: int = 1,
        context_tokens: float = 0.0,
        prompt_tokens: int = 0,
    ) -> None:
        """A step of `n_tokens`, `prompt_tokens` among them, took `step_s`; `context_tokens` are its
        requests' together."""
        profile_s, left, share = self._size(n_tokens - prompt_tokens)
        decode_s = profile_s + self.profile.beside_s(
            n_tokens - prompt_tokens, num_requests, context_tokens
        )
        prompt_s = self.profile.at_one(n_tokens) - profile_s if prompt_tokens else 0.0
        expected_s = decode_s + prompt_s
        decoding = decode_s / expected_s
        unit = self.profile.step_cost_s[0] / expected_s
        noise = self._noises[prompt_tokens > 0]
        seen = np.zeros(len(self._correction))
        seen[left] += (1 - share) * decoding
        seen[min(left + 1, len(self._log_n) - 1)] += share * decoding
        seen[-3] = prompt_s / expected_s
        seen[-2] = unit
        seen[-1] = unit * context_tokens / _CONTEXT_UNIT
        believed = 1.0 + float(seen.dot(self._correction))
        surprise = step_s / expected_s - believed
        error = abs(surprise) / max(believed, _LEAST)
        self._error += _NOISE_WEIGHT * (min(error, _WORST_ERROR) - self._error)
        doubt = self._covariance.dot(seen)
        variance = float(seen.dot(doubt)) + noise
        limit = _OUTLIER * math.sqrt(variance)
        if self._doubted_steps:
            self._doubted_steps -= 1
            if abs(surprise) > limit:
                self._doubt_speed()
                doubt = self._covariance @ seen
                variance = float(seen @ doubt) + noise
                limit = _OUTLIER * math.sqrt(variance)
        trust = min(1.0, limit / max(abs(surprise), 1e-12))
        moves = doubt * (trust / variance)
        self._correction += moves * surprise
        self._covariance -= doubt[:, None] * moves
        noise += _NOISE_WEIGHT * (min(surprise * surprise, _OUTLIER**2 * noise) - noise)
        self._noises[prompt_tokens > 0] = min(max(noise, _NOISES[0]), _NOISES[1])
        self._visits[left if share < 0.5 else min(left + 1, len(self._visits) - 1)] += decoding
        self.num_steps += 1
        if self.num_steps % _FORGET_EVERY == 0:
            self._forget()
        self._known = self._correction.tolist()

    def doubt(self) -> None:
        """Nothing was recorded for long: what looks like outliers now is rather news."""
        self._doubted_steps = _DOUBTED_STEPS

    def at(self, n_tokens: int, num_requests: int = 1, context_tokens: float = 0.0) -> float:
        """Seconds of a step of `n_tokens`."""
        profile_s, left, share = self._size(n_tokens)
        profile_s += self.profile.beside_s(n_tokens, num_requests, context_tokens)
        c = self._known
        relative = c[left] if not share else (1 - share) * c[left] + share * c[left + 1]
        beside = c[-2] + c[-1] * context_tokens / _CONTEXT_UNIT
        corrected_s = (1 + relative) * profile_s + beside * self.profile.step_cost_s[0]
        least_s = _LEAST * profile_s
        return corrected_s if corrected_s > least_s else least_s

    def learned(self) -> StepCostTable:
        """A rising table that says about what `at` says, at the profile's entries."""
        profile, c = self.profile, self._known
        unit_s = profile.step_cost_s[0]
        costs_s = [self.at(n, 0) for n in profile.n_tokens]
        usual = max(float(np.average(1 + self._correction[:-3], weights=self._weights)), _LEAST)
        context_token_s = usual * profile.context_token_s + c[-1] * unit_s / _CONTEXT_UNIT
        return StepCostTable(
            profile.n_tokens,
            tuple(np.maximum.accumulate(costs_s).tolist()),
            usual * profile.request_s,
            max(context_token_s, 0.0),
            usual * profile.pair_s,
        )

    @property
    def visits(self) -> tuple[float, ...]:
        """Recent steps nearest to each entry of the table."""
        return tuple(self._visits.tolist())

    def snapshot(self) -> dict[str, float]:
        """How far it is from the profile, over all that was visited, and by how much, relatively,
        steps missed what was believed of them."""
        ratios = [self.at(n, 0) / self.profile.at_one(n) for n in self.profile.n_tokens]
        return {
            "over_profile": round(float(np.average(ratios, weights=self._weights)), 3),
            "relative_error": round(self._error, 3),
        }

    @property
    def _weights(self) -> NDArray[np.float64]:
        return self._visits if self._visits.any() else np.ones(len(self._visits))

    def _size(self, n_tokens: int) -> _Size:
        known = self._sizes.get(n_tokens)
        if known is None:
            known = _Size(self.profile.at_one(n_tokens), *self._place(n_tokens))
            self._sizes[n_tokens] = known
        return known

    def _place(self, n_tokens: int) -> tuple[int, float]:
        """The entry at or below `n_tokens`, and how far it is to the next, 0 to 1."""
        log_n = math.log2(max(n_tokens, 1))
        left = bisect_right(self._log_n, log_n) - 1
        if left < 0:
            return 0, 0.0
        if left >= len(self._log_n) - 1:
            return len(self._log_n) - 1, 0.0
        return left, (log_n - self._log_n[left]) / (self._log_n[left + 1] - self._log_n[left])

    def _doubt_speed(self) -> None:
        """All steps may take another multiple of what they took, as they may of the profile."""
        takes = self._correction.copy()
        takes[:-2] += 1.0
        self._covariance += _COMMON**2 * np.outer(takes, takes)

    def _forget(self) -> None:
        kept = math.exp(-_FORGET_EVERY / _MEMORY)
        self._correction *= kept
        self._covariance = kept**2 * self._covariance + (1 - kept**2) * self._prior
        self._visits *= kept


def _prior(log_n: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance [J + 3, J + 3] of the corrections before any step is seen."""
    num_entries = len(log_n)
    covariance = np.zeros((num_entries + 3, num_entries + 3))
    apart = np.abs(log_n[:, None] - log_n)
    covariance[:num_entries, :num_entries] = _COMMON**2 + _LOCAL**2 * np.exp(-apart / _ALIKE)
    covariance[-3, -3] = _PROMPT**2
    covariance[-2, -2] = _OVERHEAD**2
    covariance[-1, -1] = _CONTEXT**2
    return covariance
