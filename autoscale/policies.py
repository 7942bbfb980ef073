"""How many draft tokens of each request a step verifies.

Pure decisions. The engine's adapter asks a policy, before drafts are requested, for whom to
request them, and afterwards how many of them are admitted; and it tells the policy what
every step did.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from autoscale.schedule import threshold_lengths


class Verified(NamedTuple):
    """What became of a request's admitted draft tokens; 0 of 0 too where its draft was waited for
    in vain."""

    request_id: str
    num_drafts: int
    num_accepted: int


class StepOutcome(NamedTuple):
    """A finished target step of `num_requests`.

    `step_s` is its wall time, drafting excluded, or None where that would say nothing, as the
    engine was idle before it. `context_tokens` are those that its requests had computed before,
    all together, and `prompt_tokens` those of its `n_tokens` that were neither drafts nor the
    one token that every request computes. What is `verified` are `Verified`, or plain tuples of
    the same.
    """

    n_tokens: int
    num_requests: int
    step_s: float | None
    verified: Sequence[tuple[str, int, int]]
    context_tokens: int = 0
    prompt_tokens: int = 0


class StepTerms(NamedTuple):
    """What a schedule weighs beside confidences.

    `weights` [R] are those of the drafted requests' service classes and `plain_weight` that
    of all requests without drafts; left out, every request weighs 1. `prefill_tokens` are
    prompt tokens that share the coming step: unfinished prompts, and what is forecast;
    `joining_requests` are forecast to decode beside the others.
    """

    weights: NDArray[np.float64] | None = None
    plain_weight: float | None = None
    prefill_tokens: int = 0
    joining_requests: int = 0


PLAIN_TERMS = StepTerms()


class Policy(Protocol):
    """The verify schedule of one engine.

    Where it `reads_confidences`, it is given calibrated ones, and its schedule is departed
    from now and then so that these stay calibrated.
    """

    @property
    def reads_confidences(self) -> bool: ...

    def pauses(self, num_requests: int) -> bool:
        """Whether nothing is drafted after a step of `num_requests`, whoever they are.

        Asked first; `choose` is asked where it is False.
        """

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        """For which of `candidates` to request drafts, in a step of `num_requests` requests."""

    def admit(
        self,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
    ) -> NDArray[np.int64]:
        """Draft tokens to verify per drafted request, int64 [R], at most `limits` [R].

        `confidences` [R, gamma] are P(token k accepted | those before it accepted).
        """

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        """Drafting for `num_drafts` requests took `draft_s`."""

    def record_step(self, outcome: StepOutcome) -> None:
        """A step has finished."""

    def forget(self, request_id: str) -> None:
        """A request has ended."""

    def snapshot(self) -> dict[str, Any]:
        """What it has learned, as plain values."""


class _Stateless:
    """Learns nothing; unless it says otherwise, admits whatever the confidences."""

    reads_confidences = False

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        pass

    def record_step(self, outcome: StepOutcome) -> None:
        pass

    def forget(self, request_id: str) -> None:
        pass

    def snapshot(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Off(_Stateless):
    """No drafts: plain decoding. Features keep flowing, so drafting can resume warm."""

    def pauses(self, num_requests: int) -> bool:
        return True

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        return ()

    def admit(
        self,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
    ) -> NDArray[np.int64]:
        return np.zeros_like(limits)


class _Unguarded(_Stateless):
    """Drafts for every request in every step."""

    def pauses(self, num_requests: int) -> bool:
        return False

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        return candidates


@dataclass(frozen=True)
class Fixed(_Unguarded):
    """The first `k` draft tokens of every request, whatever the load."""

    k: int

    def admit(
        self,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
    ) -> NDArray[np.int64]:
        return np.minimum(limits, self.k)


@dataclass(frozen=True)
class Threshold(_Unguarded):
    """The draft tokens that survive with a probability of `least_survival` or more."""

    reads_confidences = True
    least_survival: float

    def admit(
        self,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
    ) -> NDArray[np.int64]:
        return threshold_lengths(confidences, limits, self.least_survival)
