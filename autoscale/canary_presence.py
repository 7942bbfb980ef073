"""Whether a canary's drafters are there at all: one that never comes, dies or crashes again and
again counts next to nothing, and would be waited for in vain."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

ABSENT_S = 300.0  # a start takes a minute or two, and weights are loaded anew with every one
_LOSSES = 3  # of each of its replicas, on average: it crashes


class Presence:
    """Of one trial, from its beginning at `now_s` on."""

    def __init__(self, now_s: float) -> None:
        self._alive: frozenset[str] = frozenset()
        self._seen_s = now_s  # when one was alive, or its time began
        self._most = 1  # at once
        self._num_lost = 0

    @property
    def is_there(self) -> bool:
        """Whether one was alive when it was last looked at."""
        return bool(self._alive)

    def see(self, alive: AbstractSet[str], now_s: float) -> None:
        """Names of the replicas that are alive now."""
        self._num_lost += len(self._alive - alive)
        self._alive = frozenset(alive)
        self._most = max(self._most, len(alive))
        if alive:
            self._seen_s = now_s

    def reason_to_end(self, now_s: float) -> str | None:
        """Why to wait for it no longer; None while it may prove something yet."""
        if now_s - self._seen_s > ABSENT_S:
            return f"none of its replicas was there for {ABSENT_S:.0f} s; see their logs"
        if self._num_lost >= _LOSSES * self._most:
            return f"its replicas crash: {self._num_lost} were lost; see their logs"
        return None
