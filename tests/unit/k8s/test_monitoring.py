"""Monitors reach the pods' ports; rules are the package's; Ray and vLLM export what they use."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import yaml

from cluster.observability.grafana import alerts_path
from cluster.observability.metrics import FOREIGN
from tests.unit.k8s.manifests import matches, of_kind, pod_templates, ray_groups, render

# Where metrics that the rules use are made, below the package.
SOURCES = {
    "ray": ("serve/_private/*.py", "dashboard/modules/reporter/reporter_agent.py"),
    "vllm": ("v1/metrics/loggers.py", "v1/spec_decode/metrics.py"),
}
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")


def spec() -> dict:
    (manifest,) = of_kind("PrometheusRule", render("gpu"))
    return manifest["spec"]


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


def test_what_we_use_of_ray_and_vllm_is_exported():
    unknown = {
        name
        for name in (found.removeprefix("ray_") for found in FOREIGN)
        if not {name, SUFFIX.sub("", name)} & exported()
    }
    assert not unknown


def test_the_rules_are_those_of_the_package():
    assert spec() == yaml.safe_load(alerts_path().read_text())


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
