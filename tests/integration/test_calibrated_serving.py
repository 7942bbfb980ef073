"""A live target whose drafter's confidences drift: seen, said, and refitted away."""

from __future__ import annotations

from typing import Any

import pytest

from autoscale.calibration_messages import report_from_plain
from autoscale.drift import SurvivalCounts
from autoscale.policies import Threshold
from drafters.messages import DraftBatch, StepBatch
from drafters.sources import ColocatedDraftSource
from tests.integration.engines import draft_engine, draft_from, settings
from tests.integration.learning import LearningFleet

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


def survival_by_what_serves(fleet: LearningFleet, rounds: int) -> SurvivalCounts:
    """Of drafts that nothing is fitted to any more, and no alarm waited for."""
    (report, *others) = [report_from_plain(fleet.outcomes()) for _ in range(rounds)]
    key = next(key for key in report if str(key) == KEY)
    counts = report[key].survival
    for other in others:
        counts.merge(other[key].survival)
    return counts


@pytest.mark.long
def test_drift_is_alarmed_and_refitted_away(speculative: Any) -> None:
    source = Drifting(draft_engine())
    adapter = draft_from(speculative, source)
    usual, adapter.policy = adapter.policy, Threshold(0.1)
    fleet = LearningFleet(speculative, settings(), temperature=0.7)

    def serve() -> dict[str, Any]:
        known: dict[str, Any] = fleet.serve()["calibration"][KEY]
        return known

    try:
        steady = [serve() for _ in range(8)]
        source.factor = 3.0  # sure of everything, for and against
        drifted = [serve()]
        while not drifted[-1]["drift_alarm"]:
            drifted.append(serve())
            assert len(drifted) < 25, drifted
        while drifted[-1]["drift_alarm"] or drifted[-1]["recent_labels"] < 10_000:
            drifted.append(serve())
            assert len(drifted) < 60, drifted
        after = survival_by_what_serves(fleet, rounds=8)
    finally:
        adapter.policy = usual
    assert not any(known["drift_alarm"] for known in steady)
    assert drifted[-1]["version"] > steady[-1]["version"]
    assert after.num_labels > 5_000
    assert after.ece - after.expected_noise < 0.02
    assert adapter.stats.refused_plan_parts == 0
