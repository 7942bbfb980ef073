"""The causal policy: verify what pays by measured cost, and stop drafting when it does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.draft_cost import DraftCost
from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.fleet_step_cost import StepCostReport
from autoscale.guard import Guard
from autoscale.live_step_cost import LiveStepCost
from autoscale.policies import PLAIN_TERMS, StepOutcome, StepTerms
from autoscale.schedule import (
    admit_most_worth,
    best_budget,
    causal_lengths,
    expected_by_budget,
    token_worth,
)
from autoscale.step_cost import CostCurve, StepCostTable, verify_cost_s

_MAX_CURVE_WAIT = 32  # drafted steps until what they taught is taken up


class Causal:
    """Schedules on a step-cost table that is corrected while serving.

    Steps with draft tokens and steps without correct a copy of their own: what is compared
    is then what either was seen to take. `drafts` is what is known of drafting before.
    """

    reads_confidences = True

    def __init__(self, step_cost: StepCostTable, drafts: DraftExperience = NO_EXPERIENCE) -> None:
        self._plain = LiveStepCost(step_cost)
        self._drafted = LiveStepCost(step_cost)
        self._curve = CostCurve(step_cost.envelope())
        self._curve_is_of = 0  # drafted steps
        self._draft_cost = DraftCost(dict(drafts.draft_s))
        self._guard = Guard(drafts.accepted, drafts.verified, drafts.num_drafts)
        self._num_requests = 0
        self._context_tokens = 0  # of all requests, in the last step

    def pauses(self, num_requests: int) -> bool:
        """Whether the guard has stopped drafting and no probe is due."""
        self._num_requests = num_requests
        return self._guard.pauses(self.gain, num_requests)

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        """Those for whom drafting pays, from earlier steps alone."""
        self._num_requests = num_requests
        num_probes = self._guard.num_probes
        chosen = self._guard.choose(candidates, self.gain, num_requests)
        if self._guard.num_probes > num_probes:  # what a probe sees decides, not what was before
            self._draft_cost.doubt()
            self._drafted.doubt()
        return chosen

    def gain(self, accepted: float, verified: float, share: float) -> float:
        """Tokens per second with drafting over those without, at the present load.

        `accepted` and `verified` are draft tokens per step of a request with drafts, `share`
        is the share of such requests.
        """
        n = self._num_requests
        n_tokens = round(n * (1 + share * verified))
        drafted_s = self._drafted.at(n_tokens, n, self._context_tokens)
        drafted_s += self._draft_cost.at(max(1, round(share * n)))
        plain_s = self._plain.at(n, n, self._context_tokens)
        return (1 + share * accepted) * plain_s / drafted_s

    def admit(
        self,
        confidences: NDArray[np.float64],
        limits: NDArray[np.int64],
        num_requests: int,
        terms: StepTerms = PLAIN_TERMS,
    ) -> NDArray[np.int64]:
        """The schedule of a step; see `autoscale.schedule`. A probe begins with whole drafts."""
        if self._guard.wants_whole_drafts:
            return limits.copy()
        worth = token_worth(confidences, limits, terms.weights)
        curve = self._learned_curve(num_requests)
        expected = num_requests + terms.joining_requests
        cost_s = self._draft_cost.at(len(limits)) + verify_cost_s(
            curve, expected, worth.size, terms.prefill_tokens
        )
        return self._lengths(worth, total_weight(len(worth), expected, terms), cost_s)

    def _learned_curve(self, num_requests: int) -> CostCurve:
        """What drafted steps take by now, brought up to date once in a while."""
        wait = min(1 + self._curve_is_of // 4, _MAX_CURVE_WAIT)
        if self._drafted.num_steps >= self._curve_is_of + wait:
            self._curve_is_of = self._drafted.num_steps
            table = self._drafted.learned().under(num_requests, self._context_tokens)
            self._curve = CostCurve(self._as_searched(table))
        return self._curve

    def _as_searched(self, table: StepCostTable) -> StepCostTable:
        return table.envelope()

    def _lengths(
        self, worth: NDArray[np.float64], weight: float, cost_s: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        return causal_lengths(worth, weight, cost_s)

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        self._draft_cost.record(num_drafts, draft_s)

    def record_step(self, outcome: StepOutcome) -> None:
        self._guard.record(outcome.verified, outcome.num_requests)
        if outcome.step_s is not None:
            has_drafts = any(sent for _, sent, _ in outcome.verified)
            cost = self._drafted if has_drafts else self._plain
            cost.record(
                outcome.n_tokens,
                outcome.step_s,
                outcome.num_requests,
                outcome.context_tokens,
                outcome.prompt_tokens,
            )
        self._context_tokens = outcome.context_tokens

    def forget(self, request_id: str) -> None:
        self._guard.forget(request_id)

    def learned(self) -> StepCostReport:
        """What other replicas may start from: step costs, of each size of the kind of step that
        came up more often, and how drafting was."""
        plain, drafted = self._plain.learned(), self._drafted.learned()
        pairs = list(zip(self._plain.visits, self._drafted.visits, strict=True))
        costs = zip(pairs, plain.step_cost_s, drafted.step_cost_s, strict=True)
        chosen = [p if visits[0] >= visits[1] else d for visits, p, d in costs]
        usual = plain if self._plain.num_steps >= self._drafted.num_steps else drafted
        rising = tuple(np.maximum.accumulate(chosen).tolist())
        achieved = self._guard.achieved
        drafts = DraftExperience(
            tuple(sorted(self._draft_cost.mean_s.items())),
            achieved.accepted,
            achieved.verified,
            achieved.num_drafts,
        )
        table = replace(usual, step_cost_s=rising)
        return StepCostReport(table, tuple(map(max, pairs)), drafts)

    def snapshot(self) -> dict[str, Any]:
        """What it goes by now; times in seconds."""
        achieved = self._guard.achieved
        return {
            "drafting": self._guard.drafting,
            "probes": self._guard.num_probes,
            "accepted_per_draft": round(achieved.accepted, 3),
            "verified_per_draft": round(achieved.verified, 3),
            "drafted_share": round(achieved.share, 3),
            "plain_cost": self._plain.snapshot(),
            "drafted_cost": self._drafted.snapshot(),
            "draft_cost_s": round(self._draft_cost.at(self._num_requests), 6),
            "n_tokens": list(self._plain.profile.n_tokens),
            "step_cost_s": [round(cost, 6) for cost in self._plain.profile.step_cost_s],
        }


class Lookahead(Causal):
    """Searches the whole cost, dents included, for the budget, by the confidences before.

    How many draft tokens a step verifies follows from what the step before had, so nothing
    that is drawn now decides it; which ones follows from what is drawn now.
    """

    def __init__(self, step_cost: StepCostTable, drafts: DraftExperience = NO_EXPERIENCE) -> None:
        super().__init__(step_cost, drafts)
        self._curve = CostCurve(step_cost)  # dents and all
        self._worth_before: NDArray[np.float64] | None = None

    def _as_searched(self, table: StepCostTable) -> StepCostTable:
        return table

    def _lengths(
        self, worth: NDArray[np.float64], weight: float, cost_s: NDArray[np.float64]
    ) -> NDArray[np.int64]:
        before, self._worth_before = self._worth_before, worth
        if before is None or not before.size:
            return np.zeros(len(worth), dtype=np.int64)
        like_now = np.resize(before, worth.shape)  # as many requests as now, of the same kind
        return admit_most_worth(worth, best_budget(expected_by_budget(like_now, weight), cost_s))


def total_weight(num_drafted: int, num_requests: int, terms: StepTerms) -> float:
    """W: the weight of all requests of a step, with drafts or without."""
    drafted = float(num_drafted) if terms.weights is None else float(terms.weights.sum())
    if terms.plain_weight is None:
        return drafted + num_requests - num_drafted
    return drafted + terms.plain_weight + terms.joining_requests
