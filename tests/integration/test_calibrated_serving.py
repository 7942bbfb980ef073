"""A live target whose drafter's confidences drift: seen, said, and refitted away."""

from __future__ import annotations

from itertools import cycle, islice
from typing import Any

import pytest
from vllm import SamplingParams

from autoscale.calibration_messages import report_from_plain
from autoscale.drift import SurvivalCounts
from autoscale.policies import Threshold
from cluster.controller import FleetController
from cluster.fleet_learning import FleetLearning
from cluster.messages import TargetReport
from deployments.drafting_pair import drafting_pair
from drafters.messages import DraftBatch, StepBatch
from drafters.sources import ColocatedDraftSource
from loadtest.prompts import PROMPTS
from tests.integration.engines import draft_engine, draft_from, settings

SAMPLED = SamplingParams(temperature=0.7, max_tokens=48, ignore_eos=True)
KEY = "q/0.4-0.8"


class Drifting(ColocatedDraftSource):
    """The bundled drafter; its confidences' log-odds are multiplied by `factor`."""

    factor = 1.0

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        drafts = super().draft(batch)
        if drafts is None:
            return None
        confidences = drafts.confidences.logit(eps=1e-6).mul(self.factor).sigmoid()
        return DraftBatch(drafts.tokens, confidences, drafts.distribution)


class Fleet:
    """One target, in this process, and a controller: their exchange is the served one."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.learning = FleetLearning()
        self.controller = FleetController(learning=self.learning)
        self.pair = drafting_pair(settings())
        self.prompts = cycle(PROMPTS)

    def outcomes(self) -> dict[str, Any]:
        """What became of the drafts of twenty requests."""
        prompts = islice(self.prompts, 20)
        chats: list[Any] = [[{"role": "user", "content": prompt}] for prompt in prompts]
        self.engine.chat(chats, SAMPLED, use_tqdm=False)
        ((outcomes, _),) = self.engine.collective_rpc("dspark_take_outcomes")
        return dict(outcomes)

    def survival_by_what_serves(self, rounds: int) -> SurvivalCounts:
        """Of drafts that nothing is fitted to any more, and no alarm waited for."""
        (report, *others) = [report_from_plain(self.outcomes()) for _ in range(rounds)]
        key = next(key for key in report if str(key) == KEY)
        counts = report[key].survival
        for other in others:
            counts.merge(other[key].survival)
        return counts

    def serve(self) -> dict[str, Any]:
        """Twenty requests, an exchange and a refit; what is known of the key then."""
        outcomes = self.outcomes()
        report = TargetReport("t", "demo", "split", 1, {}, self.pair, outcomes)
        self.learning.absorb(self.pair, outcomes)
        self.learning.refit()
        plan = self.controller.report_target(report)
        worker_plan = {"calibrations": plan.calibrations}
        self.engine.collective_rpc("dspark_apply_plan", args=(worker_plan,))
        (learned,) = self.controller.snapshot()["models"]["demo"]["learned"]
        known: dict[str, Any] = learned["calibration"][KEY]
        return known


@pytest.mark.long
def test_drift_is_alarmed_and_refitted_away(speculative: Any) -> None:
    source = Drifting(draft_engine())
    adapter = draft_from(speculative, source)
    usual, adapter.policy = adapter.policy, Threshold(0.1)
    fleet = Fleet(speculative)
    try:
        steady = [fleet.serve() for _ in range(8)]
        source.factor = 3.0  # sure of everything, for and against
        drifted = [fleet.serve()]
        while not drifted[-1]["drift_alarm"]:
            drifted.append(fleet.serve())
            assert len(drifted) < 25, drifted
        while drifted[-1]["drift_alarm"] or drifted[-1]["recent_labels"] < 10_000:
            drifted.append(fleet.serve())
            assert len(drifted) < 60, drifted
        after = fleet.survival_by_what_serves(rounds=8)
    finally:
        adapter.policy = usual
    assert not any(known["drift_alarm"] for known in steady)
    assert drifted[-1]["version"] > steady[-1]["version"]
    assert after.num_labels > 5_000
    assert after.ece - after.expected_noise < 0.02
    assert adapter.stats.refused_plan_parts == 0
