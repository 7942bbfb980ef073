"""Every alert fires on what it is for and stays silent beside it, as Prometheus evaluates it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from cluster.observability.grafana import alerts_path
from cluster.observability.metrics import known_series
from tests.unit.cluster.promql import metric_names, promtool

RULES = yaml.safe_load(alerts_path().read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in RULES for rule in group["rules"] if "alert" in rule}

HEALTHY = 'ray_serve_deployment_replica_healthy{deployment="Target:m",application="a"}'
REQUESTS = 'ray_serve_num_http_requests_total{application="a"}'
OF_MODEL = '{model="m",replica="r"}'


def errors(code):
    return f'ray_serve_num_http_error_requests_total{{application="a",error_code="{code}"}}'


def outcome(name):
    return f'ray_dspark_class_requests_total{{model="m",service_class="c",outcome="{name}"}}'


SHED = 'ray_dspark_shed_requests_total{model="m",service_class="c",reason="too_late"}'


def vllm(name):
    return f'ray_vllm_{name}{{model_name="m"}}'


def ttft(bound):
    return f'ray_vllm_time_to_first_token_seconds_bucket{{model_name="m",le="{bound}"}}'


# Of every alert: series in which it fires and in which it does not, a sample a minute, and the
# labels that it fires with. Prometheus' own notation: `0+60x90` grows by one a second.
STEADY, FASTER = "0+600x90", "0+300x90"
CASES: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "DSparkNoTarget": (
        {HEALTHY: "0x90"},
        {HEALTHY: "1x90"},
        {"application": "a", "deployment": "Target:m"},
    ),
    "DSparkNotServing": ({"up": "1x90"}, {HEALTHY: "0x90"}, {}),
    "DSparkReplicasMissing": (
        {
            HEALTHY: "1x90",
            HEALTHY.replace("deployment_replica_healthy", "autoscaling_target_replicas"): "2x90",
        },
        {
            HEALTHY: "2x90",
            HEALTHY.replace("deployment_replica_healthy", "autoscaling_target_replicas"): "2x90",
        },
        {"application": "a", "deployment": "Target:m"},
    ),
    "DSparkPoolIncomplete": (
        {'ray_dspark_fleet_missing_replicas{model="m",role="drafter"}': "1x90"},
        {
            'ray_dspark_fleet_missing_replicas{model="m",role="drafter"}': "0x90",
            'ray_dspark_fleet_missing_replicas{model="m",role="target"}': "2x60 0x30",
        },
        {"model": "m", "role": "drafter"},
    ),
    "DSparkAttachedDown": (
        {f"ray_dspark_attached_up{OF_MODEL}": "0x90"},
        {f"ray_dspark_attached_up{OF_MODEL}": "1 0 1x88"},
        {"model": "m", "replica": "r"},
    ),
    "DSparkServerErrors": (
        {REQUESTS: STEADY, errors(503): "0+12x90"},
        {REQUESTS: STEADY, errors(503): "0+3x90", errors(429): FASTER},
        {"application": "a"},
    ),
    "DSparkShedding": (
        {REQUESTS: STEADY, errors(429): "0+60x90"},
        {REQUESTS: STEADY, errors(429): "0+24x90"},
        {"application": "a"},
    ),
    "DSparkUnknownKeys": (
        {'ray_dspark_denied_requests_total{replica="i",reason="unknown_key"}': "0+60x90"},
        {
            'ray_dspark_denied_requests_total{replica="i",reason="unknown_key"}': "0+1x90",
            'ray_dspark_denied_requests_total{replica="i",reason="too_large"}': "0+60x90",
        },
        {},
    ),
    "DSparkPromiseBroken": (
        # Of 10 a minute 1 is late and 10 more are refused.
        {
            outcome("met"): "0+9x90",
            outcome("missed"): "0+1x90",
            SHED: "0+10x90",
        },
        {outcome("met"): "0+95x90", outcome("missed"): "0+5x90"},
        {"model": "m", "service_class": "c"},
    ),
    "DSparkSlowFirstToken": (
        {ttft(5): "0+50x90", ttft(10): "0+60x90", ttft("+Inf"): "0+60x90"},
        {ttft(5): "0+59x90", ttft(10): "0+60x90", ttft("+Inf"): "0+60x90"},
        {"model_name": "m"},
    ),
    "DSparkAnswersGivenUp": (
        {'ray_dspark_lost_target_requests_total{outcome="given_up"}': "_x85 1x5"},
        {
            'ray_dspark_lost_target_requests_total{outcome="given_up"}': "3x90",
            'ray_dspark_lost_target_requests_total{outcome="continued"}': "0+1x90",
        },
        {},
    ),
    "DSparkPlansStale": (
        {f"ray_dspark_plan_stale{OF_MODEL}": "1x90"},
        {f"ray_dspark_plan_stale{OF_MODEL}": "0 1 0 1x0 0x86"},
        {"model": "m"},
    ),
    "DSparkNoDrafter": (
        {'ray_dspark_fleet_undrafted_targets{model="m"}': "1x90"},
        {'ray_dspark_fleet_undrafted_targets{model="m"}': "0x90"},
        {"model": "m"},
    ),
    "DSparkDraftsLate": (
        {
            f"ray_dspark_draft_requests_total{OF_MODEL}": STEADY,
            f"ray_dspark_draft_deadline_misses_total{OF_MODEL}": "0+90x90",
        },
        {
            f"ray_dspark_draft_requests_total{OF_MODEL}": STEADY,
            f"ray_dspark_draft_deadline_misses_total{OF_MODEL}": "0+30x90",
        },
        {"model": "m"},
    ),
    "DSparkDrafterFails": (
        {'ray_dspark_drafter_failures_total{model="m",replica="r",reason="failed"}': "0+60x90"},
        {'ray_dspark_drafter_failures_total{model="m",replica="r",reason="failed"}': "0+1x90"},
        {"model": "m", "reason": "failed"},
    ),
    "DSparkWireMessagesDropped": (
        {'ray_dspark_drafter_dropped_messages_total{model="m",reason="secret"}': "0+60x90"},
        {'ray_dspark_drafter_dropped_messages_total{model="m",reason="secret"}': "100x90"},
        {"model": "m", "reason": "secret"},
    ),
    "DSparkDraftsRejected": (
        {
            vllm("spec_decode_num_draft_tokens_total"): STEADY,
            vllm("spec_decode_num_accepted_tokens_total"): "0+60x90",
        },
        {
            vllm("spec_decode_num_draft_tokens_total"): STEADY,
            vllm("spec_decode_num_accepted_tokens_total"): "0+180x90",
        },
        {"model_name": "m"},
    ),
    "DSparkAcceptanceCollapsed": (
        {'ray_dspark_acceptance_collapsed{model="m",drafter="d",drafter_version="v"}': "1x90"},
        {'ray_dspark_acceptance_collapsed{model="m",drafter="d",drafter_version="v"}': "0x90"},
        {"model": "m", "drafter": "d"},
    ),
    "DSparkCalibrationDrift": (
        {'ray_dspark_drift_alarm{model="m",drafter="d",key="greedy/0"}': "1x90"},
        {'ray_dspark_drift_alarm{model="m",drafter="d",key="greedy/0"}': "1x70 0x20"},
        {"model": "m", "drafter": "d", "key": "greedy/0"},
    ),
    "DSparkCostModelOff": (
        {'ray_dspark_step_cost_error{model="m",replica="r",steps="plain"}': "0.6x90"},
        {'ray_dspark_step_cost_error{model="m",replica="r",steps="plain"}': "0.2x90"},
        {"model": "m", "steps": "plain"},
    ),
    "DSparkNodeMemory": (
        {'ray_node_mem_used{ip="n"}': "95x90", 'ray_node_mem_total{ip="n"}': "100x90"},
        {'ray_node_mem_used{ip="n"}': "80x90", 'ray_node_mem_total{ip="n"}': "100x90"},
        {"ip": "n"},
    ),
}


LATE = {"model": "m", "service_class": "c"}  # all of them, or all refused: no other series is there


def case(alert: str, series: dict[str, str], labels: dict[str, str] | None) -> dict[str, Any]:
    """After 90 minutes the alert fires with `labels`; with None it does not."""
    fired = {
        "alertstate": "firing",
        "alertname": alert,
        **ALERTS[alert]["labels"],
        **(labels or {}),
    }
    expected = ", ".join(f'{name}="{value}"' for name, value in fired.items())
    return {
        "name": alert,
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
                "eval_time": "89m",
                "exp_samples": []
                if labels is None
                else [{"labels": f"ALERTS{{{expected}}}", "value": 1}],
            }
        ],
    }


def test_every_alert_fires_on_what_it_is_for_and_on_nothing_beside(tmp_path):
    assert CASES.keys() == ALERTS.keys()
    tests = [case(alert, fires, labels) for alert, (fires, _, labels) in CASES.items()]
    tests += [case(alert, quiet, None) for alert, (_, quiet, _) in CASES.items()]
    tests += [case("DSparkPromiseBroken", {one: STEADY}, LATE) for one in (outcome("missed"), SHED)]
    tests.append(
        {
            "interval": "1m",
            "input_series": [
                {"series": 'ray_dspark_fleet_undrafted_targets{model="m"}', "values": "2x9"}
            ],
            "alert_rule_test": [
                {
                    "eval_time": "5m",
                    "alertname": "DSparkNoDrafter",
                    "exp_alerts": [
                        {
                            "exp_labels": {"model": "m", "severity": "warning"},
                            "exp_annotations": ALERTS["DSparkNoDrafter"]["annotations"]
                            | {"summary": "2 targets of m have no drafter."},
                        }
                    ],
                }
            ],
        }
    )
    path = tmp_path / "tests.yml"
    rule_files = [str(alerts_path().resolve())]
    path.write_text(yaml.safe_dump({"rule_files": rule_files, "tests": tests}))
    promtool("test", "rules", str(path))


def test_prometheus_takes_the_rules():
    promtool("check", "rules", str(alerts_path()))


def test_rules_use_declared_metrics_alone():
    recorded: set[str] = set()
    for rule in (rule for group in RULES for rule in group["rules"]):
        names = metric_names(rule["expr"])
        assert names
        assert names <= known_series() | recorded, rule
        recorded.add(rule.get("record", ""))


def test_every_alert_says_what_is_wrong_and_has_a_runbook():
    runbooks = Path("docs/runbooks.md").read_text()
    sections = set(re.findall(r"^## (\w+)$", runbooks, re.MULTILINE))
    assert sections == ALERTS.keys()
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"
