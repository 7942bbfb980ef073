"""A replica's first steps against its steady ones: cold, and with what the fleet learned."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.causal_policy import Causal
from autoscale.fleet_step_cost import StepCostReport
from autoscale.policies import StepOutcome, Verified
from autoscale.step_cost import StepCostTable

N_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TRUE = StepCostTable(N_TOKENS, tuple(0.008 + 0.00025 * n for n in N_TOKENS))
# What an engine measures as it starts: forward passes alone, on an idle machine.
AT_START = StepCostTable(N_TOKENS, tuple(0.004 + 0.0001 * n for n in N_TOKENS))
COLD = StepCostReport(AT_START, (0.0,) * len(N_TOKENS))
GAMMA, ACCEPT, FIRST, RUNS = 7, 0.75, 200, 100


class Replica:
    """Steps of `TRUE` cost; a draft token is accepted with `ACCEPT`, drafting takes 4 ms and
    1 ms a request."""

    def __init__(self, learned: StepCostReport, seed: int) -> None:
        self.policy = Causal(learned.table, learned.drafts)
        self.rng = np.random.default_rng(seed)
        self.lengths: dict[str, int] = {}
        self.served = 0

    def tokens_per_s(self, num_requests: int, steps: int) -> float:
        """Over so many more steps, of requests that have just come."""
        ids = [f"r{self.served + i}" for i in range(num_requests)]
        self.served += num_requests
        tokens, seconds = 0, 0.0
        for _ in range(steps):
            some, took_s = self._step(ids)
            tokens += some
            seconds += took_s
        for id_ in ids:
            self.policy.forget(id_)
        self.lengths.clear()
        return tokens / seconds

    def _step(self, ids: list[str]) -> tuple[int, float]:
        policy, n = self.policy, len(ids)
        verified = [Verified(i, k, self._accepted(k)) for i, k in self.lengths.items()]
        n_tokens = n + sum(self.lengths.values())
        took_s = TRUE.at_one(n_tokens)
        policy.record_step(StepOutcome(n_tokens, n, took_s, verified))
        self.lengths = {}
        asked = [] if policy.pauses(n) else list(policy.choose(ids, n))
        if asked:
            draft_s = 0.004 + 0.001 * len(asked)
            policy.record_draft(len(asked), draft_s)
            took_s += draft_s
            confidences = np.full((len(asked), GAMMA), ACCEPT)
            lengths = policy.admit(confidences, np.full(len(asked), GAMMA), n).tolist()
            self.lengths = dict(zip(asked, lengths, strict=True))
        return n + sum(one.num_accepted for one in verified), took_s

    def _accepted(self, num_drafts: int) -> int:
        return int((self.rng.random(num_drafts) < ACCEPT).cumprod().sum())


@pytest.mark.parametrize(("num_requests", "gained"), [(2, 0.0), (4, 0.01), (16, 0.003)])
def test_first_steps_are_as_good_as_any_within_two_percent(num_requests, gained):
    old = Replica(COLD, seed=0)
    for n in (1, 4, 16, 64, num_requests):
        old.tokens_per_s(n, 300)
    learned = StepCostReport.from_plain(old.policy.learned().to_plain())
    assert learned.table.at_one(8) == pytest.approx(TRUE.at_one(8), rel=0.03)
    assert dict(learned.drafts.draft_s)[4] == pytest.approx(0.008)
    steady = np.mean([old.tokens_per_s(num_requests, FIRST) for _ in range(RUNS)])
    cold, handed = (
        np.mean([Replica(start, seed).tokens_per_s(num_requests, FIRST) for seed in range(RUNS)])
        for start in (COLD, learned)
    )
    assert handed > 0.98 * steady
    assert handed > (1 + gained) * cold
