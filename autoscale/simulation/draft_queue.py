"""A target's way to drafters that it shares: their queue, its deadline, its patience."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

_MAX_MISSES = 3  # in a row, as a served target takes them (`drafters.sources.CoolOff`)
_FIRST_COOL_OFF_S, _MAX_COOL_OFF_S = 0.25, 5.0


class Reply(NamedTuple):
    """When a target goes on that asked for drafts, and whether it has them then."""

    at_s: float
    is_answered: bool = True
    was_asked: bool = True


class DraftQueue:
    """`free_s` is when each drafter that lives is done with what it was asked before, `assigned`
    says which one is asked. Who waited `deadline_s` goes on without, but the drafter drafts."""

    def __init__(
        self,
        free_s: dict[int, float],
        assigned: Callable[[], int],
        draft_s: Callable[[int], float],
        deadline_s: float,
    ) -> None:
        self._free_s = free_s
        self._assigned = assigned
        self._draft_s = draft_s
        self._deadline_s = deadline_s
        self._asked = -1  # the drafter last asked
        self._misses = 0
        self._cool_off_s = _FIRST_COOL_OFF_S
        self._resume_s = -math.inf

    def ask(self, now_s: float, num_requests: int) -> Reply:
        drafter = self._assigned()
        if drafter != self._asked:
            self._asked = drafter
            self._answered()
            self._resume_s = -math.inf
        if now_s < self._resume_s:
            return Reply(now_s, is_answered=False, was_asked=False)
        if drafter in self._free_s:
            ready_s = max(self._free_s[drafter], now_s) + self._draft_s(num_requests)
            self._free_s[drafter] = ready_s
            if ready_s <= now_s + self._deadline_s:
                self._answered()
                return Reply(ready_s)
        self._missed(now_s + self._deadline_s)
        return Reply(now_s + self._deadline_s, is_answered=False)

    def _answered(self) -> None:
        self._misses, self._cool_off_s = 0, _FIRST_COOL_OFF_S

    def _missed(self, now_s: float) -> None:
        self._misses += 1
        if self._misses >= _MAX_MISSES:
            self._resume_s = now_s + self._cool_off_s
            self._cool_off_s = min(2 * self._cool_off_s, _MAX_COOL_OFF_S)
