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
    stats.ineligible["seed"] = 2
    stats.time_draft(0.004)
    expected = [0.75, 0.5, 0.25, 0.0]
    return stats.to_plain() | {"expected_by_position": expected, "expected_tokens": sum(expected)}


SOME = ClassTotals(arrived=5, admitted=3, shed_too_late=2, met=3)


def target_report(totals=SOME, **stats):
    (report,) = target_reports(1)
    admission = {"seats": 8, "classes": {"interactive": asdict(totals)}}
    return replace(report, stats={"admission": admission, **stats})


def drafting_report(totals=SOME):
    policy = Causal(StepCostTable((1, 8), (0.01, 0.02)))
    return target_report(
        totals,
        **adapter_stats(),
        sessions=1,
        schedule=policy.snapshot(),
        source=asdict(SourceStats(requests=9, replies=6, timeouts=2, unsent=1, bytes_sent=100)),
    )


def attached_report():
    """Of an engine that somebody else launched, which drafts and is down just now."""
    engine = {"url": "http://e", "down": "no answer", "down_s": 3.0, "outages": 1}
    engine |= {"kind": "vllm", "no_metrics": None, "kv_usage": 0.5}
    counted = {"committed_tokens": 20, "verified_drafts": 7, "draft_tokens": 21}
    return replace(
        target_report(engine=engine, accepted_tokens=11, **counted), placement="attached"
    )


def drafter_report():
    connections = {"accepted": 2, "disconnected": 1}
    stats = ServerStats(drafts=7, failed_steps=1, dropped={"secret": 3}, connections=connections)
    engine = EngineStats(2, 5, 0, 0, 0, 1, 0, 0, 7)
    return DrafterReport("d", "m", "tcp://d", 1, asdict(stats) | {"engine": asdict(engine)})


def grown(report, times):
    """A report of a target whose worker has counted so many times as much."""
    stats = dict(report.stats) | {"mean_step_s": 0.01, "mean_plan_s": 0.001, "steps": 2 * times}
    for name in ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens"):
        stats[name] = max(stats[name], 1) * times
    for name in ("admitted", "reached", "accepted", "expected"):
        stats[f"{name}_by_position"] = [n * times for n in stats[f"{name}_by_position"]]
    for name in ("source", "ineligible"):
        stats[name] = {key: n * times for key, n in stats[name].items()}
    return replace(report, stats=stats | {"expected_tokens": 1.5 * times})
