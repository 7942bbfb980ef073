"""Every metric that we export, named once: who publishes it, its unit, its tags, what it says.

Ray's node agents export them with `ray_` before the name and, for counters, `_total` behind it.
`docs/metrics.md` is `metrics_page()`; dashboards, alerts and publishers know no other names.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Source = Literal["target", "drafter", "ingress", "controller"]

TTFT_BUCKETS_S = (0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0)
TPOT_BUCKETS_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One declared metric. `tags` are beside those of its source, see `TAGS_OF`; a histogram
    has `buckets`, upper bounds in its unit."""

    source: Source
    name: str
    kind: Kind
    unit: str
    meaning: str
    tags: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def all_tags(self) -> tuple[str, ...]:
        return (*TAGS_OF[self.source], *self.tags)

    @property
    def exported(self) -> str:
        """As Prometheus knows it; a histogram has `_bucket`, `_sum` and `_count` behind it."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")

    @property
    def series(self) -> tuple[str, ...]:
        """Every name that an expression may ask for."""
        if self.kind == "histogram":
            return tuple(f"{self.exported}_{part}" for part in ("bucket", "sum", "count"))
        return (self.exported,)


TAGS_OF: dict[Source, tuple[str, ...]] = {
    "target": ("model", "replica"),
    "drafter": ("model", "replica"),
    "ingress": ("replica",),
    "controller": (),
}
_PAIR = ("model", "drafter", "drafter_version")

_TARGET = (
    # load
    Metric("target", "dspark_running_requests", "gauge", "requests", "In the engine's batch"),
    Metric(
        "target", "dspark_waiting_requests", "gauge", "requests", "Without a place in the batch yet"
    ),
    Metric(
        "target",
        "dspark_seats",
        "gauge",
        "requests",
        "That may run together with every promise kept",
    ),
    Metric(
        "target", "dspark_unread_prompt_tokens", "gauge", "tokens", "Of prompts still to be read"
    ),
    Metric("target", "dspark_step_seconds", "gauge", "seconds", "A usual step that decodes alone"),
    Metric("target", "dspark_steps", "counter", "steps", "Engine steps"),
    Metric("target", "dspark_committed_tokens", "counter", "tokens", "Output tokens"),
    # engines that somebody else launched
    Metric(
        "target", "dspark_attached_up", "gauge", "0 or 1", "1 while an attached engine is to be had"
    ),
    Metric("target", "dspark_attached_outages", "counter", "outages", "When it was not, in number"),
    Metric(
        "target",
        "dspark_attached_kv_usage",
        "gauge",
        "share",
        "Of its KV cache in use, where it tells",
    ),
    # speculation
    Metric("target", "dspark_drafting", "gauge", "0 or 1", "1 while the policy asks for drafts"),
    Metric(
        "target",
        "dspark_verify_budget_tokens",
        "gauge",
        "tokens",
        "Draft tokens that a request has verified in a step, as the policy goes by now",
    ),
    Metric("target", "dspark_verified_drafts", "counter", "drafts", "Drafts with a token verified"),
    Metric(
        "target",
        "dspark_draft_tokens",
        "counter",
        "tokens",
        "Draft tokens admitted to verification",
    ),
    Metric("target", "dspark_accepted_tokens", "counter", "tokens", "Draft tokens accepted"),
    Metric(
        "target", "dspark_wasted_tokens", "counter", "tokens", "Draft tokens verified and rejected"
    ),
    Metric(
        "target",
        "dspark_predicted_tokens",
        "counter",
        "tokens",
        "Draft tokens to be accepted by their calibrated confidences",
    ),
    Metric(
        "target",
        "dspark_position_admitted",
        "counter",
        "tokens",
        "Draft tokens verified, by position from 1",
        ("position",),
    ),
    Metric(
        "target",
        "dspark_position_reached",
        "counter",
        "tokens",
        "Of these, those with all earlier positions accepted",
        ("position",),
    ),
    Metric(
        "target",
        "dspark_position_accepted",
        "counter",
        "tokens",
        "Of these, those accepted",
        ("position",),
    ),
    Metric(
        "target",
        "dspark_position_predicted",
        "counter",
        "tokens",
        "To be accepted by calibrated survival, by position",
        ("position",),
    ),
    Metric(
        "target",
        "dspark_unspeculated_requests",
        "counter",
        "requests",
        "Served without speculation, by why it would not be exact or was not wanted",
        ("reason",),
    ),
    # what drafting and the cost model are worth
    Metric(
        "target",
        "dspark_step_cost_error",
        "gauge",
        "ratio",
        "Relative error of the learned cost of a step, by steps with and without drafts",
        ("steps",),
    ),
    Metric(
        "target",
        "dspark_step_cost_over_profile",
        "gauge",
        "ratio",
        "Learned cost of a step over the profile's, by steps with and without drafts",
        ("steps",),
    ),
    Metric(
        "target",
        "dspark_draft_round_trip_seconds",
        "gauge",
        "seconds",
        "What a step usually waits for drafts",
    ),
    Metric("target", "dspark_draft_requests", "counter", "requests", "Steps that asked for drafts"),
    Metric(
        "target",
        "dspark_draft_deadline_misses",
        "counter",
        "requests",
        "Of these, those without drafts by the deadline",
    ),
    Metric(
        "target",
        "dspark_draft_failures",
        "counter",
        "requests",
        "Drafts that did not come for another reason: refused by the drafter, spoiled on the way, "
        "unsent, skipped while the drafter is left alone, malformed, error",
        ("reason",),
    ),
    Metric(
        "target",
        "dspark_draft_bytes",
        "counter",
        "bytes",
        "On the wire to and from drafters",
        ("direction",),
    ),
    Metric("target", "dspark_sessions", "gauge", "sessions", "Requests that a drafter knows of"),
    # plans
    Metric("target", "dspark_plan_age_seconds", "gauge", "seconds", "Age of the plan held"),
    Metric("target", "dspark_plan_stale", "gauge", "0 or 1", "1 while local rules decide"),
    Metric("target", "dspark_plan_apply_seconds", "gauge", "seconds", "To take a plan up"),
    Metric(
        "target", "dspark_exchange_failures", "counter", "exchanges", "Exchanges without an answer"
    ),
    Metric(
        "target",
        "dspark_plan_outdated",
        "counter",
        "plans",
        "Plans of a controller that is not the latest",
    ),
    Metric(
        "target",
        "dspark_plan_refused_fields",
        "counter",
        "fields",
        "Fields of plans that could not be followed",
        ("field",),
    ),
    # promises
    Metric(
        "target",
        "dspark_class_requests",
        "counter",
        "requests",
        "By service class: arrived, or continued from a lost target; admitted, then met, missed or "
        "broken_off; gave_up waiting",
        ("service_class", "outcome"),
    ),
    Metric(
        "target",
        "dspark_shed_requests",
        "counter",
        "requests",
        "Refused for good, by why: who is passed on to another target counts there",
        ("service_class", "reason"),
    ),
    Metric(
        "target",
        "dspark_ttft_seconds",
        "histogram",
        "seconds",
        "Arrival to first token, by service class",
        ("service_class",),
        TTFT_BUCKETS_S,
    ),
    Metric(
        "target",
        "dspark_tpot_seconds",
        "histogram",
        "seconds",
        "Mean time per token after the first, of a request, by service class",
        ("service_class",),
        TPOT_BUCKETS_S,
    ),
)

_DRAFTER = (
    Metric("drafter", "dspark_drafter_sessions", "gauge", "sessions", "With context held"),
    Metric("drafter", "dspark_drafter_context_blocks", "gauge", "blocks", "Of context in use"),
    Metric("drafter", "dspark_drafter_drafts", "counter", "drafts", "Drafts made"),
    Metric("drafter", "dspark_drafter_batches", "counter", "steps", "Steps of targets drafted for"),
    Metric(
        "drafter",
        "dspark_drafter_merged_steps",
        "counter",
        "steps",
        "Calls of the draft engine, each for steps of several targets",
    ),
    Metric("drafter", "dspark_drafter_busy_seconds", "counter", "seconds", "Spent drafting"),
    Metric(
        "drafter",
        "dspark_drafter_wait_seconds",
        "counter",
        "seconds",
        "That steps of all targets together waited for their turn",
    ),
    Metric(
        "drafter",
        "dspark_drafter_evicted_sessions",
        "counter",
        "sessions",
        "Whose context made room for others",
    ),
    Metric(
        "drafter",
        "dspark_drafter_failures",
        "counter",
        "steps",
        "Not drafted for or not answered: failed, rejected, refused_hello, unsent",
        ("reason",),
    ),
    Metric(
        "drafter",
        "dspark_drafter_dropped_messages",
        "counter",
        "messages",
        "That did not parse, were not authenticated, came again or too fast",
        ("reason",),
    ),
    Metric(
        "drafter",
        "dspark_drafter_connections",
        "counter",
        "connections",
        "Accepted, disconnected, and those whose handshake failed (half-open, or another key)",
        ("event",),
    ),
    Metric("drafter", "dspark_drafter_bytes", "counter", "bytes", "On the wire", ("direction",)),
)

_INGRESS = (
    Metric(
        "ingress",
        "dspark_lost_target_requests",
        "counter",
        "requests",
        "Whose target was lost: continued from their tokens, restarted before any, given_up",
        ("outcome",),
    ),
    Metric(
        "ingress",
        "dspark_refused_requests",
        "counter",
        "requests",
        "Answered 429 or 503, by why: targets refused them, or were known to",
        ("reason",),
    ),
    Metric(
        "ingress",
        "dspark_denied_requests",
        "counter",
        "requests",
        "Not let in, by why: no_key or unknown_key (401; a revoked one too), not_allowed (403), "
        "over_quota (429), unknown_class or beyond_limits (400), too_large (413), too_slow (408)",
        ("reason",),
    ),
)

_CONTROLLER = (
    Metric("controller", "dspark_fleet_targets", "gauge", "replicas", "That report", ("model",)),
    Metric("controller", "dspark_fleet_drafters", "gauge", "replicas", "That report", ("model",)),
    Metric(
        "controller",
        "dspark_fleet_undrafted_targets",
        "gauge",
        "replicas",
        "In placement split without a drafter",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_fleet_missing_replicas",
        "gauge",
        "replicas",
        "By role, target or drafter: fewer that report than the settings say, or than the least "
        "where they scale",
        ("model", "role"),
    ),
    Metric(
        "controller",
        "dspark_fleet_arrivals_per_second",
        "gauge",
        "1/s",
        "Requests that came to all targets, in their last intervals",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_fleet_expected_arrivals_per_second",
        "gauge",
        "1/s",
        "The same in a minute, as their trend goes",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_fleet_drafter_busy",
        "gauge",
        "share",
        "Of their time that drafter replicas draft, on average",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_fleet_draft_wait_seconds",
        "gauge",
        "seconds",
        "That a step waits for drafts, averaged over targets that draft",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_fleet_accepted_per_draft",
        "gauge",
        "tokens",
        "Draft tokens accepted per verified draft, of the last half minute",
        ("model",),
    ),
    Metric(
        "controller",
        "dspark_controller_dropped_reports",
        "counter",
        "reports",
        "Too fast or too many (flood), or with an impossible_load, controls, outcomes or step_cost",
        ("reason",),
    ),
    Metric(
        "controller",
        "dspark_calibration_version",
        "gauge",
        "version",
        "Of the calibration that serves",
        (*_PAIR, "key"),
    ),
    Metric(
        "controller",
        "dspark_calibration_ece",
        "gauge",
        "ratio",
        "ECE of predicted survival over recent labels",
        (*_PAIR, "key"),
    ),
    Metric(
        "controller",
        "dspark_calibration_position_ece",
        "gauge",
        "ratio",
        "The same, by position from 1",
        (*_PAIR, "key", "position"),
    ),
    Metric(
        "controller",
        "dspark_calibration_excess_ece",
        "gauge",
        "ratio",
        "Its part beyond sampling noise",
        (*_PAIR, "key"),
    ),
    Metric(
        "controller",
        "dspark_drift_alarm",
        "gauge",
        "0 or 1",
        "1 while predicted survival is clearly off",
        (*_PAIR, "key"),
    ),
    Metric(
        "controller",
        "dspark_acceptance_rate",
        "gauge",
        "ratio",
        "Accepted share of the draft tokens tried",
        _PAIR,
    ),
    Metric(
        "controller",
        "dspark_acceptance_rate_expected",
        "gauge",
        "ratio",
        "What there is reason to expect",
        _PAIR,
    ),
    Metric(
        "controller",
        "dspark_acceptance_collapsed",
        "gauge",
        "0 or 1",
        "1 while less than half of it is accepted",
        _PAIR,
    ),
)

METRICS: tuple[Metric, ...] = (*_TARGET, *_DRAFTER, *_INGRESS, *_CONTROLLER)

# Of Ray and vLLM, what dashboards and alerts use; Ray puts its own tags on all of them.
FOREIGN: dict[str, str] = {
    "ray_serve_num_http_requests_total": "HTTP requests, by application and route",
    "ray_serve_num_http_error_requests_total": "Of these, those with an error, by error_code",
    "ray_serve_deployment_replica_healthy": "1 per replica that is healthy, by deployment",
    "ray_serve_autoscaling_target_replicas": "Replicas that there should be, where they scale",
    "ray_vllm_time_to_first_token_seconds_bucket": "From vLLM's arrival, gate not included",
    "ray_vllm_kv_cache_usage_perc": "Share of KV blocks in use",
    "ray_vllm_prefix_cache_hits_total": "Prompt tokens found in the prefix cache",
    "ray_vllm_prefix_cache_queries_total": "Prompt tokens looked up there",
    "ray_vllm_num_preemptions_total": "Requests that gave their KV blocks away",
    "ray_vllm_spec_decode_num_accepted_tokens_total": "As dspark_accepted_tokens, native too",
    "ray_vllm_spec_decode_num_draft_tokens_total": "As dspark_draft_tokens, native too",
    "ray_node_mem_used": "Bytes, by node",
    "ray_node_mem_total": "Bytes, by node",
    "ray_node_cpu_utilization": "Per cent, by node",
}


def of_source(source: Source) -> dict[str, Metric]:
    """What one kind of process publishes, by name."""
    return {metric.name: metric for metric in METRICS if metric.source == source}


def known_series() -> frozenset[str]:
    """Every name that a dashboard or an alert may use."""
    ours = (name for metric in METRICS for name in metric.series)
    return frozenset((*ours, *FOREIGN))


def metrics_page() -> str:
    """`docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Made by `dspark dashboards metrics`, from `cluster/observability/metrics.py`. Ray's node",
        "agents export them all on their metrics port; Ray adds `WorkerId`, `NodeAddress`,",
        "`SessionName` and more as tags. Targets, drafters and the ingress publish once per",
        "exchange, half a second in fleets of up to 300 replicas, and never per token; the",
        "controller replicas every second, what is learned with every refit, ten seconds. A",
        "counter is not there until it counts. Gauges of a replica that is gone stay until Ray",
        "forgets its process.",
    ]
    for source, tags in TAGS_OF.items():
        named = f", each with `{'`, `'.join(tags)}`" if tags else ""
        lines += ["", f"## Of the {source}{named}", "", *_table(of_source(source).values())]
    lines += ["", "## Of Ray and vLLM, used beside them", "", "| metric | says |", "|---|---|"]
    lines += [f"| `{name}` | {says} |" for name, says in FOREIGN.items()]
    return "\n".join(lines) + "\n"


def _table(metrics: Iterable[Metric]) -> list[str]:
    rows = ["| metric | kind | unit | tags | says |", "|---|---|---|---|---|"]
    for one in metrics:
        tags = ", ".join(f"`{tag}`" for tag in one.tags)
        rows.append(f"| `{one.exported}` | {one.kind} | {one.unit} | {tags} | {one.meaning} |")
    return rows
