"""The causal policy: verify what pays by measured cost, and stop drafting when it does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.causal import causal_lengths
from autoscale.draft_cost import DraftCost
from autoscale.guard import Guard
from autoscale.live_step_cost import LiveStepCost
from autoscale.policies import StepOutcome
from autoscale.step_cost import StepCostTable


class Causal:
    """Schedules on a step-cost table that is corrected while serving.

    Steps with draft tokens and steps without correct a copy of their own: what is compared
    is then what either was seen to take.
    """

    reads_confidences = True

    def __init__(self, step_cost: StepCostTable) -> None:
        self._plain = LiveStepCost(step_cost)
        self._drafted = LiveStepCost(step_cost)
        self._envelope = step_cost.envelope()
        self._draft_cost = DraftCost()
        self._guard = Guard()
        self._num_requests = 0

    def pauses(self, num_requests: int) -> bool:
        """Whether the guard has stopped drafting and no probe is due."""
        self._num_requests = num_requests
        return self._guard.pauses(self.gain, num_requests)

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        """Those for whom drafting pays, from earlier steps alone."""
        self._num_requests = num_requests
        return self._guard.choose(candidates, self.gain, num_requests)

    def gain(self, accepted: float, verified: float, share: float) -> float:
        """Tokens per second with drafting over those without, at the present load.

        `accepted` and `verified` are draft tokens per step of a request with drafts, `share`
        is the share of such requests.
        """
        n = self._num_requests
        n_tokens = round(n * (1 + share * verified))
        drafted_s = self._drafted.at(n_tokens) + self._draft_cost.at(max(1, round(share * n)))
        return (1 + share * accepted) * self._plain.at(n) / drafted_s

    def admit(
        self, confidences: NDArray[np.float64], limits: NDArray[np.int64], num_requests: int
    ) -> NDArray[np.int64]:
        """The causal schedule; see `autoscale.causal`."""
        # In units of the table's seconds; a step never takes nothing.
        beyond_s = self._drafted.overhead_s + self._draft_cost.at(len(limits))
        beyond_s = max(beyond_s / self._drafted.scale, -0.8 * self._envelope.step_cost_s[0])
        return causal_lengths(
            confidences,
            limits,
            self._envelope,
            beyond_s,
            num_plain=num_requests - len(limits),
        )

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        self._draft_cost.record(num_drafts, draft_s)

    def record_step(self, outcome: StepOutcome) -> None:
        self._guard.record(outcome.verified, outcome.num_requests)
        if outcome.step_s is not None:
            has_drafts = any(request.num_drafts for request in outcome.verified)
            cost = self._drafted if has_drafts else self._plain
            cost.record(outcome.n_tokens, outcome.step_s)

    def forget(self, request_id: str) -> None:
        self._guard.forget(request_id)

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
            "n_tokens": list(self._plain.table.n_tokens),
            "step_cost_s": [round(cost, 6) for cost in self._plain.table.step_cost_s],
        }
