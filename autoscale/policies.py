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


class Verified(NamedTuple):
    """What became of a request's admitted draft tokens."""

    request_id: str
    num_drafts: int
    num_accepted: int


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """A finished target step of `num_requests`.

    `step_s` is its wall time, drafting excluded, or None where that would say nothing: the
    engine was idle before it, or a prompt was prefilled in it.
    """

    n_tokens: int
    num_requests: int
    step_s: float | None
    verified: Sequence[Verified]


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
        self, confidences: NDArray[np.float64], limits: NDArray[np.int64], num_requests: int
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
    """Learns nothing, and admits whatever the confidences."""

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
        self, confidences: NDArray[np.float64], limits: NDArray[np.int64], num_requests: int
    ) -> NDArray[np.int64]:
        return np.zeros_like(limits)


@dataclass(frozen=True)
class Fixed(_Stateless):
    """The first `k` draft tokens of every request, whatever the load."""

    k: int

    def pauses(self, num_requests: int) -> bool:
        return False

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        return candidates

    def admit(
        self, confidences: NDArray[np.float64], limits: NDArray[np.int64], num_requests: int
    ) -> NDArray[np.int64]:
        return np.minimum(limits, self.k)
