"""From what replicas report anyway to samples of the declared metrics; unknown is left out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from autoscale.class_counts import Latency
from cluster.messages import DrafterReport, IngressReport, TargetReport
from profiles.provenance import DraftingPair

_SHED = "shed_"
_OF_STEPS = {"plain": "plain_cost", "drafted": "drafted_cost"}
_OF_POSITION = {
    "dspark_position_admitted": "admitted_by_position",
    "dspark_position_reached": "reached_by_position",
    "dspark_position_accepted": "accepted_by_position",
    "dspark_position_predicted": "expected_by_position",
}
_OF_CALIBRATION = {
    "dspark_calibration_version": "version",
    "dspark_calibration_ece": "recent_ece",
    "dspark_calibration_excess_ece": "excess_ece",
    "dspark_drift_alarm": "drift_alarm",
}
_OF_ACCEPTANCE = {
    "dspark_acceptance_rate": "rate",
    "dspark_acceptance_rate_expected": "expected_rate",
    "dspark_acceptance_collapsed": "collapsed",
}


_OF_FLEET_LOAD = {
    "dspark_fleet_arrivals_per_second": "arrivals_per_s",
    "dspark_fleet_expected_arrivals_per_second": "expected_arrivals_per_s",
    "dspark_fleet_drafter_busy": "drafter_busy",
    "dspark_fleet_draft_wait_seconds": "draft_wait_s",
    "dspark_fleet_accepted_per_draft": "accepted_per_draft",
}


class Sample(NamedTuple):
    """Of a gauge its value, of a counter its total, of a histogram one observation."""

    name: str
    value: float
    tags: Mapping[str, str] = {}


class PoolSizes(NamedTuple):
    """Replicas of a model that there are at least, as its settings say."""

    targets: int
    drafters: int


def target_samples(report: TargetReport) -> Iterator[Sample]:
    """Of a target replica, from its report: load, speculation, promises and the plan held."""
    if report.load is not None:
        yield Sample("dspark_running_requests", report.load.running)
        yield Sample("dspark_waiting_requests", report.load.waiting)
        yield Sample("dspark_unread_prompt_tokens", report.load.prefill_tokens)
    admission = report.stats.get("admission", {})
    if "seats" in admission:
        yield Sample("dspark_seats", admission["seats"])
    yield from _class_samples(admission.get("classes", {}))
    if "engine" in report.stats:
        yield from _attached_samples(report.stats)
    elif "verified_drafts" in report.stats:  # our adapter is in the worker
        yield from _counted_samples(report.stats)
        yield from _speculation_samples(report.stats)
        yield from _policy_samples(report.stats.get("schedule", {}))
        yield from _source_samples(report.stats)


def plan_samples(held: Mapping[str, Any], num_failed: int) -> Iterator[Sample]:
    """Of the plan that a target holds (`HeldPlan.snapshot`); `num_failed` exchanges had no
    answer."""
    if held["age_s"] is not None:
        yield Sample("dspark_plan_age_seconds", held["age_s"])
    yield Sample("dspark_plan_stale", held["is_stale"])
    yield Sample("dspark_plan_outdated", held["outdated"])
    yield Sample("dspark_exchange_failures", num_failed)
    for field, count in held["refused"].items():
        yield Sample("dspark_plan_refused_fields", count, {"field": field})


def latency_samples(latencies: Iterable[Latency]) -> Iterator[Sample]:
    """Of requests that ended."""
    for name, ttft_s, tpot_s in latencies:
        tags = {"service_class": name}
        yield Sample("dspark_ttft_seconds", ttft_s, tags)
        if tpot_s is not None:
            yield Sample("dspark_tpot_seconds", tpot_s, tags)


def drafter_samples(report: DrafterReport) -> Iterator[Sample]:
    """Of a drafter replica, from its report."""
    stats, engine = report.stats, report.stats["engine"]
    yield Sample("dspark_drafter_sessions", engine["sessions"])
    yield Sample("dspark_drafter_context_blocks", engine["blocks_used"])
    yield Sample("dspark_drafter_evicted_sessions", engine["sessions_evicted"])
    yield Sample("dspark_drafter_drafts", stats["drafts"])
    yield Sample("dspark_drafter_batches", stats["batches"])
    yield Sample("dspark_drafter_merged_steps", stats["merged_steps"])
    yield Sample("dspark_drafter_busy_seconds", stats["total_step_s"])
    yield Sample("dspark_drafter_wait_seconds", stats["total_wait_s"])
    failures = {"failed": "failed_steps", "refused_hello": "refused_hellos"}
    failures |= {name: name for name in ("rejected", "unsent")}
    for reason, name in failures.items():
        yield Sample("dspark_drafter_failures", stats[name], {"reason": reason})
    for reason, count in stats["dropped"].items():
        yield Sample("dspark_drafter_dropped_messages", count, {"reason": reason})
    for event, count in stats["connections"].items():
        yield Sample("dspark_drafter_connections", count, {"event": event})
    for direction in ("in", "out"):
        tags = {"direction": direction}
        yield Sample("dspark_drafter_bytes", stats[f"bytes_{direction}"], tags)


def ingress_samples(
    report: IngressReport, refused: Mapping[str, int], denied: Mapping[str, int]
) -> Iterator[Sample]:
    """Of an ingress replica, from its report; requests `refused`, for want of room, and
    `denied`, whatever room there is, by reason."""
    for outcome in ("continued", "restarted", "given_up"):
        count = getattr(report, outcome)
        yield Sample("dspark_lost_target_requests", count, {"outcome": outcome})
    for reason, count in refused.items():
        yield Sample("dspark_refused_requests", count, {"reason": reason})
    for reason, count in denied.items():
        yield Sample("dspark_denied_requests", count, {"reason": reason})


def fleet_samples(
    fleet: Mapping[str, Any], configured: Mapping[str, PoolSizes], dropped: Mapping[str, int]
) -> Iterator[Sample]:
    """Of the controller, from `FleetController.snapshot`, of all models that are `configured`,
    also those that nobody reports for; reports `dropped`, or parts of them, by reason.

    Drafters on trial fill nobody's place.
    """
    for reason, count in dropped.items():
        yield Sample("dspark_controller_dropped_reports", count, {"reason": reason})
    for model_id, sizes in configured.items():
        model = fleet["models"].get(model_id, {"targets": [], "drafters": []})
        tags = {"model": model_id}
        split = [one for one in model["targets"] if one["placement"] == "split"]
        without = sum(one["drafter"] is None for one in split)
        yield Sample("dspark_fleet_targets", len(model["targets"]), tags)
        yield Sample("dspark_fleet_drafters", len(model["drafters"]), tags)
        yield Sample("dspark_fleet_undrafted_targets", without, tags)
        own = sum(not one["canary"] for one in model["drafters"])
        for role, missing in (
            ("target", sizes.targets - len(model["targets"])),
            ("drafter", sizes.drafters - own),
        ):
            yield Sample("dspark_fleet_missing_replicas", max(0, missing), tags | {"role": role})
        yield from _known(_OF_FLEET_LOAD, model.get("load", {}), tags)


def learning_samples(pair: DraftingPair, snapshot: Mapping[str, Any]) -> Iterator[Sample]:
    """Of what the fleet learned of a pair (`FleetLearning.snapshot`)."""
    tags = {
        "model": pair.model_id,
        "drafter": pair.drafter_id,
        "drafter_version": pair.drafter_version,
    }
    for key, values in snapshot["calibration"].items():
        of_key = tags | {"key": key}
        yield from _known(_OF_CALIBRATION, values, of_key)
        for k, ece in enumerate(values.get("recent_ece_by_position", ()), start=1):
            if ece is not None:
                by_position = of_key | {"position": str(k)}
                yield Sample("dspark_calibration_position_ece", ece, by_position)
    yield from _known(_OF_ACCEPTANCE, snapshot.get("acceptance", {}), tags)


def _attached_samples(stats: Mapping[str, Any]) -> Iterator[Sample]:
    """Of `deployments.attach.server`: what the engine tells."""
    engine = stats["engine"]
    yield Sample("dspark_attached_up", engine["down"] is None)
    yield Sample("dspark_attached_outages", engine["outages"])
    if engine.get("kv_usage") is not None:
        yield Sample("dspark_attached_kv_usage", engine["kv_usage"])
    yield from _counted_samples(stats)


def _counted_samples(stats: Mapping[str, Any]) -> Iterator[Sample]:
    """Of tokens and drafts, whoever counted them."""
    for name in ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens"):
        if name in stats:
            yield Sample(f"dspark_{name}", stats[name])
    if "draft_tokens" in stats and "accepted_tokens" in stats:
        yield Sample("dspark_wasted_tokens", stats["draft_tokens"] - stats["accepted_tokens"])


def _speculation_samples(stats: Mapping[str, Any]) -> Iterator[Sample]:
    """Of `deployments.engine.engine_step.AdapterStats`, beside what is counted."""
    yield Sample("dspark_steps", stats["steps"])
    yield Sample("dspark_predicted_tokens", stats["expected_tokens"])
    for name, key in _OF_POSITION.items():
        for k, count in enumerate(stats[key], start=1):
            yield Sample(name, count, {"position": str(k)})
    for reason, count in stats["ineligible"].items():
        yield Sample("dspark_unspeculated_requests", count, {"reason": reason})
    for part in ("advice", "plan_parts"):
        tags = {"field": f"worker_{part}"}
        yield Sample("dspark_plan_refused_fields", stats[f"refused_{part}"], tags)
    yield Sample("dspark_sessions", stats["sessions"])
    for name, key in (
        ("dspark_step_seconds", "mean_step_s"),
        ("dspark_draft_round_trip_seconds", "mean_draft_wait_s"),
        ("dspark_plan_apply_seconds", "mean_plan_s"),
    ):
        if stats[key]:
            yield Sample(name, stats[key])


def _policy_samples(schedule: Mapping[str, Any]) -> Iterator[Sample]:
    """Of `Causal.snapshot`; policies that learn nothing have none."""
    if not schedule:
        return
    drafting = schedule["drafting"]
    budget = schedule["verified_per_draft"] * schedule["drafted_share"] if drafting else 0.0
    yield Sample("dspark_drafting", drafting)
    yield Sample("dspark_verify_budget_tokens", budget)
    for steps, key in _OF_STEPS.items():
        tags = {"steps": steps}
        yield Sample("dspark_step_cost_error", schedule[key]["relative_error"], tags)
        yield Sample("dspark_step_cost_over_profile", schedule[key]["over_profile"], tags)


def _source_samples(stats: Mapping[str, Any]) -> Iterator[Sample]:
    """Of `drafters.sources.SourceStats`."""
    source = stats["source"]
    yield Sample("dspark_draft_requests", source["requests"])
    yield Sample("dspark_draft_deadline_misses", source["timeouts"])
    failures = {name: source[name] for name in ("refused", "spoiled", "unsent", "skipped")}
    failures |= {"error": source["errors"], "malformed": stats["malformed_replies"]}
    for reason, count in failures.items():
        yield Sample("dspark_draft_failures", count, {"reason": reason})
    yield Sample("dspark_draft_bytes", source["bytes_sent"], {"direction": "out"})
    yield Sample("dspark_draft_bytes", source["bytes_received"], {"direction": "in"})


def _class_samples(classes: Mapping[str, Mapping[str, int]]) -> Iterator[Sample]:
    """Of `autoscale.class_counts.ClassTotals` by service class."""
    for name, totals in classes.items():
        for counted, count in totals.items():
            tags = {"service_class": name}
            if counted.startswith(_SHED):
                reason = counted.removeprefix(_SHED)
                yield Sample("dspark_shed_requests", count, tags | {"reason": reason})
            else:
                yield Sample("dspark_class_requests", count, tags | {"outcome": counted})


def _known(
    names: Mapping[str, str], values: Mapping[str, Any], tags: Mapping[str, str]
) -> Iterator[Sample]:
    """Those that are known; an error is None while there are too few labels."""
    for name, key in names.items():
        if values.get(key) is not None:
            yield Sample(name, float(values[key]), tags)
