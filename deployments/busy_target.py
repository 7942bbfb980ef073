"""Targets as busy ones report, without an engine: for measurements of who hears them."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np

from autoscale.calibration_messages import report_to_plain
from autoscale.causal_policy import Causal
from autoscale.class_counts import ClassTotals, Latency
from autoscale.replica_calibration import ReplicaCalibration, VerifiedDrafts
from autoscale.step_cost import StepCostTable
from cluster.fleet_bench import CLASSES, STEPS_OF_REPLICA, target_reports
from cluster.held_plan import HeldPlan
from cluster.messages import TargetPlan, TargetReport
from deployments.engine.engine_step import AdapterStats
from drafters.sources import SourceStats
from profiles.provenance import DraftingPair

BLOCK_SIZE = 7
STEPS, DRAFTS, REQUESTS = 25, 200, 10  # of a busy target between two exchanges
OUTCOMES_EVERY = 10  # exchanges: one of so many says what became of drafts and what steps take
PAIR = DraftingPair("m", "0" * 12, "d", "0" * 12)


class BusyTarget:
    """What a target that drafts for eight requests a step says, exchange after exchange."""

    def __init__(self, report: TargetReport) -> None:
        """`report` says who it is and how loaded."""
        self._report = report
        self._stats = AdapterStats.of_blocks(BLOCK_SIZE)
        self._source = SourceStats()
        self._policy = Causal(StepCostTable((1, 256), (0.010, 0.011)))
        self._num_exchanges = 0

    def report(self) -> TargetReport:
        self._num_exchanges += 1
        n = self._num_exchanges
        for i in range(DRAFTS):
            self._stats.count_draft(BLOCK_SIZE, i % (BLOCK_SIZE + 1))
        self._stats.ineligible["seed"] = n
        self._source = replace(
            self._source, requests=n * STEPS, replies=n * STEPS, bytes_sent=n << 20
        )
        totals = ClassTotals(arrived=n * REQUESTS, admitted=n * REQUESTS, met=n * REQUESTS)
        classes = {promise.name: asdict(totals) for promise in CLASSES}
        expected = [float(n * DRAFTS) / (k + 2) for k in range(BLOCK_SIZE)]
        stats = self._stats.to_plain() | {
            "expected_by_position": expected,
            "expected_tokens": sum(expected),
            "sessions": 8,
            "mean_step_s": 0.02,
            "mean_draft_wait_s": 0.004,
            "mean_plan_s": 0.0002,
            "schedule": self._policy.snapshot(),
            "source": asdict(self._source),
            "admission": {"seats": 32, "classes": classes},
        }
        return replace(self._report, stats=stats)

    def latencies(self) -> list[Latency]:
        return [Latency(CLASSES[i % len(CLASSES)].name, 0.1, 0.02) for i in range(REQUESTS)]


def busy_reports(num_replicas: int) -> list[TargetReport]:
    """One of every replica, each with its statistics and the plan it holds; a tenth of them with
    the outcomes and step costs that replicas send with one exchange in ten."""
    held, outcomes = HeldPlan(), _outcomes()
    held.take(TargetPlan("tcp://d", "secret"))
    reports = []
    for i, report in enumerate(target_reports(num_replicas)):
        said = replace(BusyTarget(report).report(), pair=PAIR, held_plan=held.snapshot())
        if i % OUTCOMES_EVERY == 0:
            said = replace(said, outcomes=outcomes, step_cost=STEPS_OF_REPLICA.to_plain())
        reports.append(said)
    return reports


def _outcomes() -> dict[str, object]:
    """Of the drafts between two reports of them."""
    rng, n = np.random.default_rng(0), OUTCOMES_EVERY * DRAFTS
    replica = ReplicaCalibration(BLOCK_SIZE)
    drafts = VerifiedDrafts(
        np.zeros(n, dtype=np.int64),
        rng.integers(0, 2**63, n).astype(np.uint64),
        rng.uniform(0.5, 0.99, (n, BLOCK_SIZE)),
        np.full(n, BLOCK_SIZE),
        rng.integers(0, BLOCK_SIZE + 1, n),
    )
    replica.record(drafts, 0, 0.0)
    return report_to_plain(replica.take_report())
