"""Reports of replicas as the serving code makes them, for whoever reads them."""

from __future__ import annotations

from dataclasses import asdict, replace

from autoscale.causal_policy import Causal
from autoscale.class_counts import ClassTotals
from autoscale.step_cost import StepCostTable
from cluster.fleet_bench import target_reports
from cluster.messages import DrafterReport
from deployments.engine.engine_step import AdapterStats
from drafters.engine import EngineStats
from drafters.server import ServerStats
from drafters.sources import SourceStats


def adapter_stats():
    """One draft of three tokens, of which one was accepted and 1.5 were expected."""
    stats = AdapterStats.of_blocks(4)
    stats.count_draft(3, 1)
    stats.count_expected([0.75, 0.5, 0.25, 0.0])
    stats.ineligible["seed"] = 2
    stats.time_draft(0.004)
    return asdict(stats)


def target_report(**stats):
    (report,) = target_reports(1)
    totals = asdict(ClassTotals(arrived=5, admitted=3, shed_too_late=2, met=3))
    admission = {"seats": 8, "classes": {"interactive": totals}}
    return replace(report, stats={"admission": admission, **stats})


def drafting_report():
    policy = Causal(StepCostTable((1, 8), (0.01, 0.02)))
    return target_report(
        **adapter_stats(),
        sessions=1,
        schedule=policy.snapshot(),
        source=asdict(SourceStats(requests=9, replies=6, timeouts=2, unsent=1, bytes_sent=100)),
    )


def drafter_report():
    stats = ServerStats(drafts=7, failed_steps=1, dropped={"secret": 3})
    engine = EngineStats(2, 5, 0, 0, 0, 1, 0, 0, 7)
    return DrafterReport("d", "m", "tcp://d", 1, asdict(stats) | {"engine": asdict(engine)})
