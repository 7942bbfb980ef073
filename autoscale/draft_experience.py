"""What drafting has been like so far, for a policy that starts."""

from __future__ import annotations

import math
from dataclasses import dataclass

_MOST_COUNTS = 4096  # of requests, whose drafts' seconds are told
_LONGEST_DRAFT_S = 60.0
_LONGEST_DRAFT = 1024  # tokens


@dataclass(frozen=True, slots=True)
class DraftExperience:
    """`draft_s` are seconds of a draft by number of requests, as pairs; `accepted` and
    `verified` are draft tokens per draft, as of `num_drafts` drafts (0: nothing is known).

    Raises ValueError for what cannot be.
    """

    draft_s: tuple[tuple[int, float], ...] = ()
    accepted: float = 0.0
    verified: float = 0.0
    num_drafts: int = 0

    def __post_init__(self) -> None:
        can_be = (
            len(self.draft_s) <= _MOST_COUNTS
            and all(n >= 1 and 0 <= took_s <= _LONGEST_DRAFT_S for n, took_s in self.draft_s)
            and 0 <= self.accepted <= self.verified <= _LONGEST_DRAFT
            and 0 <= self.num_drafts < math.inf
        )
        if not can_be:  # of NaN no comparison holds
            raise ValueError(f"drafting cannot be like {self}")


NO_EXPERIENCE = DraftExperience()
