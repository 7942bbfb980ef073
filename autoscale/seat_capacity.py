"""How many seats of a replica keep a promise, for who decides how many replicas there are."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from autoscale.draft_cost import DraftCost
from autoscale.fleet_step_cost import StepCostReport
from autoscale.seat_limit import MARGIN, TokenTime, least_seats


class SeatCapacity(NamedTuple):
    """Of one replica: by what it saw, None while that is too little, and as it is expected.

    What was seen is in seats as fast as those lately were: demand is told in the same.
    """

    seen: float | None
    expected: float


@dataclass(frozen=True, slots=True)
class ProfiledTokenTime:
    """Seconds per token of a request, as step costs and what drafts had accepted tell.

    `context_tokens` are those of one request.
    """

    steps: StepCostReport
    context_tokens: float = 0.0

    def tpot_s(self, running: int) -> float:
        """With so many requests: plain, or drafted where that is faster, as the guard decides."""
        costs, drafts = self.steps.table, self.steps.drafts
        context_tokens = running * self.context_tokens
        plain_s = costs.at_one(running) + costs.beside_s(running, running, context_tokens)
        if not drafts.num_drafts:
            return plain_s
        n_tokens = round(running * (1 + drafts.verified))
        drafted_s = costs.at_one(n_tokens) + costs.beside_s(n_tokens, running, context_tokens)
        drafted_s += DraftCost(dict(drafts.draft_s)).at(running)
        return min(plain_s, drafted_s / (1 + drafts.accepted))

    def seats(self, tpot_s: float, most: int) -> int:
        """The most requests, up to `most`, with which tokens come within `tpot_s`; 0 for none."""
        return bisect_right(range(1, most + 1), tpot_s, key=self.tpot_s)

    def growing_share(self, running: float) -> float:
        """Of the time per token with so many requests, what as many more would add to it."""
        n = max(1, round(running))
        return max(self.tpot_s(2 * n) / self.tpot_s(n) - 1, 0.0)


def seat_capacity(
    seen: TokenTime, profile: ProfiledTokenTime | None, tpot_s: float, most: int
) -> SeatCapacity:
    """Of `most` seats those with which tokens come within `tpot_s`.

    Before anything was seen it is what the profile says, and without one all of them. Where it
    was seen at hardly more than one load, how further requests slow each other down is taken
    from the profile as well. Without one it is guessed that whoever allowed so many seats had
    half of a step scale when half of them are taken.
    """
    if profile is None:
        seen_seats = seen.capacity(tpot_s, most, lambda running: running / (running + most / 2))
        return SeatCapacity(seen_seats, most)
    expected = max(profile.seats(MARGIN * tpot_s, most), least_seats(most))
    return SeatCapacity(seen.capacity(tpot_s, most, profile.growing_share), expected)
