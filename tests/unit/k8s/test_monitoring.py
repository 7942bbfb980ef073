"""Monitors reach the pods' ports; rules name metrics that are exported, and parse."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from tests.unit.k8s.manifests import matches, of_kind, pod_templates, ray_groups, render

# Where metrics that the rules use are made, below the package.
SOURCES = {
    "ray": ("serve/_private/*.py", "dashboard/modules/reporter/reporter_agent.py"),
    "vllm": ("v1/metrics/loggers.py", "v1/spec_decode/metrics.py"),
}
METRIC = re.compile(r"\bray_[a-z0-9_]+")
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


def rules() -> list[dict]:
    (manifest,) = of_kind("PrometheusRule", render("gpu"))
    return [rule for group in manifest["spec"]["groups"] for rule in group["rules"]]


@cache
def exported() -> frozenset[str]:
    """Names of metrics as Ray exports them, but for what it adds by kind: _total, _bucket."""
    names: set[str] = set()
    for package, patterns in SOURCES.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        for pattern in patterns:
            for path in Path(spec.origin).parent.glob(pattern):
                text = path.read_text()
                names |= set(re.findall(r'"((?:serve|node)_\w+)"', text))
                protocols = re.findall(r'f"(serve_\w*\{protocol_name\}\w+)"', text)
                names |= {name.replace("{protocol_name}", "http") for name in protocols}
                found = re.findall(r'"vllm:(\w+)"', text)
                names |= {f"vllm_{name}" for name in found}  # no colons in Ray's exporter
    return frozenset(names)


def test_every_rule_uses_metrics_that_are_exported():
    used = {name for rule in rules() for name in METRIC.findall(rule["expr"])} - {"ray_io_cluster"}
    assert used
    unknown = {
        name
        for name in (found.removeprefix("ray_") for found in used)
        if not {name, SUFFIX.sub("", name)} & exported()
    }
    assert not unknown


def test_recorded_names_are_recorded_before_they_are_used():
    recorded: set[str] = set()
    for rule in rules():
        assert set(re.findall(r"\bdspark:[\w:]+", rule["expr"])) <= recorded
        if "record" in rule:
            recorded.add(rule["record"])


def test_every_alert_says_what_is_wrong_and_what_to_do():
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["for"]


def test_prometheus_takes_the_rules(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    (manifest,) = of_kind("PrometheusRule", render("gpu"))
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(manifest["spec"]))
    check = subprocess.run(
        ["promtool", "check", "rules", str(path)], capture_output=True, text=True, timeout=60
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_monitor_scrapes_every_ray_pod_on_ports_that_it_has():
    manifests = render("drafter-pool")
    (monitor,) = of_kind("PodMonitor", manifests)
    endpoints = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    ports: set[str] = set()
    for group in ray_groups(manifests):
        template = group["template"]
        assert matches(monitor["spec"]["selector"], template["metadata"]["labels"])
        named = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
        assert "metrics" in named
        ports |= named
    assert set(endpoints) <= ports
    labels = [template["metadata"]["labels"] for template in pod_templates(manifests)]
    scraped = [pod for pod in labels if matches(monitor["spec"]["selector"], pod)]
    assert len(scraped) == len(ray_groups(manifests))  # neither Redis nor the prefetch job
