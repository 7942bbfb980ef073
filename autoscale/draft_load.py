"""How many drafts targets want, of late: what their drafters are chosen by."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MEMORY_S = 30.0
_KNOWN_AFTER_S = 10.0


@dataclass(slots=True)
class _Followed:
    since_s: float
    at_s: float
    drafts_per_s: float


class DraftLoads:
    """Drafts per second of every target, averaged over half a minute."""

    def __init__(self) -> None:
        self._followed: dict[str, _Followed] = {}

    def follow(self, target: str, drafts_per_s: float, now_s: float) -> None:
        """What a target wanted since it was last followed."""
        known = self._followed.get(target)
        if known is None:
            self._followed[target] = _Followed(now_s, now_s, drafts_per_s)
            return
        kept = math.exp(-max(now_s - known.at_s, 0.0) / _MEMORY_S)
        known.drafts_per_s = kept * known.drafts_per_s + (1 - kept) * drafts_per_s
        known.at_s = now_s

    def forget(self, target: str) -> None:
        self._followed.pop(target, None)

    def known(self) -> dict[str, float]:
        """Drafts per second by target, of those followed for ten seconds at least."""
        return {
            target: one.drafts_per_s
            for target, one in self._followed.items()
            if one.at_s - one.since_s >= _KNOWN_AFTER_S
        }
