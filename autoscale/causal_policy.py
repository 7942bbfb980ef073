"""The causal policy: verify what pays by measured cost, and stop drafting when it does not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoscale.causal import causal_lengths
from autoscale.draft_cost import DraftCost
from autoscale.guard import Guard
from autoscale.policies import StepOutcome
from autoscale.step_cost import StepCostTable

_WEIGHT = 0.05  # of a new step in the mean overhead


class Causal:
    """Schedules on a step-cost table, plus what steps in service took beyond it.

    The table knows the forward pass alone; scheduling, sampling, output and whoever else
    uses the machine come on top, the same with drafts and without.
    """

    def __init__(self, step_cost: StepCostTable) -> None:
        self._step_cost = step_cost
        self._envelope = step_cost.envelope()
        self._least_overhead_s = -0.5 * step_cost.step_cost_s[0]  # costs stay positive
        self._overhead_s = 0.0
        self._num_steps = 0
        self._draft_cost = DraftCost()
        self._guard = Guard()
        self._num_requests = 0

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        """Those for whom drafting pays, from earlier steps alone."""
        self._num_requests = num_requests
        return self._guard.choose(candidates, self.gain)

    def gain(self, accepted: float, verified: float) -> float:
        """Tokens per second with drafting over those without, at the present load.

        `accepted` and `verified` are draft tokens per request and step.
        """
        n = self._num_requests
        plain_s, with_drafts_s = (
            self._overhead_s
            + self._step_cost.at(np.array([n, round(n * (1 + verified))], dtype=np.int64))
        ).tolist()
        return float((1 + accepted) * plain_s / (with_drafts_s + self._draft_cost.at(n)))

    def admit(
        self, confidences: NDArray[np.float64], limits: NDArray[np.int64], num_requests: int
    ) -> NDArray[np.int64]:
        """The causal schedule; see `autoscale.causal`."""
        return causal_lengths(
            confidences,
            limits,
            self._envelope,
            self._overhead_s + self._draft_cost.at(len(limits)),
            num_plain=num_requests - len(limits),
        )

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        self._draft_cost.record(num_drafts, draft_s)

    def record_step(self, outcome: StepOutcome) -> None:
        self._guard.record(outcome.verified)
        if outcome.step_s is None:
            return
        self._num_steps += 1
        beyond_s = outcome.step_s - float(self._step_cost.at(np.array(outcome.n_tokens)))
        weight = max(_WEIGHT, 1 / self._num_steps)
        mean_s = self._overhead_s + weight * (beyond_s - self._overhead_s)
        self._overhead_s = max(mean_s, self._least_overhead_s)

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
            "overhead_s": round(self._overhead_s, 6),
            "draft_cost_s": round(self._draft_cost.at(self._num_requests), 6),
            "n_tokens": list(self._step_cost.n_tokens),
            "step_cost_s": [round(cost, 6) for cost in self._step_cost.step_cost_s],
        }
