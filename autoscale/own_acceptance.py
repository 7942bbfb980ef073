"""For which requests of a batch drafting pays: by what each one's own drafts had accepted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MEMORY = 64  # drafts that a moving mean looks back on
_ACCEPTED_SPREAD = 2.0  # standard deviation of the draft tokens a request has accepted
_MIN_DRAFTS = 12  # of a request, before its own acceptance decides
_PAUSE_STEPS = 64


def doubt_of(num_drafts: int) -> float:
    """How much higher a mean of so many drafts, 1 or more, may well be than it is seen to be."""
    few = 1 / math.sqrt(num_drafts) - 1 / math.sqrt(MEMORY)
    return _ACCEPTED_SPREAD * max(few, 0.0)


# By the number of a request's drafts, up to MEMORY: what the last of them weighs, and how much
# more than its mean a request may have accepted.
_WEIGHT = [0.0, *(1 / n for n in range(1, MEMORY + 1))]
_DOUBT = [math.inf if n < _MIN_DRAFTS else doubt_of(n) for n in range(MEMORY + 1)]


@dataclass(slots=True)
class _Own:
    num_drafts: int = 0  # up to MEMORY
    accepted: float = 0.0  # tokens per draft


class OwnAcceptance:
    """A request that does not pay goes without drafts for a while, and is then tried anew."""

    def __init__(self) -> None:
        self._own: dict[str, _Own] = {}
        self._paused: dict[str, int] = {}  # steps that a request still goes without drafts

    def __len__(self) -> int:
        """Requests of which something is known."""
        return len(self._own.keys() | self._paused.keys())

    def record(self, outcomes: Sequence[tuple[str, int, int]]) -> None:
        """Draft tokens verified and accepted in a step: (request, verified, accepted)."""
        known = self._own
        for request_id, _, kept in outcomes:
            own = known.get(request_id)
            if own is None:
                own = known[request_id] = _Own()
            if own.num_drafts < MEMORY:
                own.num_drafts += 1
            own.accepted += _WEIGHT[own.num_drafts] * (kept - own.accepted)

    def paying(self, candidates: Sequence[str], enough: float) -> Sequence[str]:
        """Those that may well have more than `enough` tokens accepted per draft.

        A batch of requests like one of them would gain in proportion to the tokens they commit
        per step.
        """
        if self._paused:
            candidates = [id_ for id_ in candidates if not self._waits(id_)]
        known = self._own
        paying = [
            id_
            for id_ in candidates
            if (own := known.get(id_)) is None or own.accepted + _DOUBT[own.num_drafts] > enough
        ]
        if len(paying) < len(candidates):
            for id_ in set(candidates).difference(paying):
                del known[id_]
                self._paused[id_] = _PAUSE_STEPS
        return paying

    def _waits(self, request_id: str) -> bool:
        steps = self._paused.get(request_id, 0)
        if steps == 1:
            del self._paused[request_id]
        elif steps:
            self._paused[request_id] = steps - 1
        return steps > 0

    def forget(self, request_id: str) -> None:
        self._own.pop(request_id, None)
        self._paused.pop(request_id, None)
