"""A real Prometheus: every expression evaluates, and on a live demo core panels have data."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from cluster.observability.grafana import dashboards, write_files
from cluster.observability.metrics import METRICS
from tests.integration.exposition import exposed
from tests.integration.served import demo_config, fleet, free_port, serving_process, wait_for
from tests.unit.cluster.promql import metric_names, without_variables

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus (Debian: prometheus)"
)

CLASSES = (
    {"name": "interactive", "ttft_ms": 5000, "tpot_ms": 500, "priority": 1},
    {"name": "batch", "ttft_ms": 60000},
)
# Panels that say something of every fleet that serves; others wait for faults or for outcomes.
CORE = {
    "fleet": [
        *("Targets", "Drafters", "Output tokens per second", "Verify budget against load"),
        *("Requests: running and waiting", "Age of plans", "Tokens per verified draft"),
        *("HTTP requests per second", "Requests without speculation", "Memory of nodes"),
    ],
    "replica": [
        *("Running requests", "Time of a step", "Wait for drafts", "Error of the cost model"),
        *("Verify budget", "Draft tokens per step: admitted, accepted", "KV cache in use"),
        *("Per draft: predicted and accepted", "Wasted share", "Draft sessions"),
    ],
    "drafters": [
        *("Busy share", "Drafts per second", "Sessions", "Time of a call"),
        *("Round trip, as targets see it", "Bytes per output token"),
    ],
    "calibration": [
        "Accepted up to each position: observed",
        "Accepted up to each position: predicted",
        "Predicted less observed, by position",
        "Version of the calibration",
    ],
    "slo": [
        *("Promise kept", "Requests per second by outcome"),
        *("Time to the first token", "Time per token after the first"),
    ],
}


class Prometheus:
    """The queries of its API."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        reply = self._client.get("/api/v1/query", params={"query": expression}).json()
        assert reply["status"] == "success", (expression, reply)
        return list(reply["data"]["result"])

    def total(self, expression: str) -> float:
        return sum(float(one["value"][1]) for one in self.query(expression))

    def get(self, path: str) -> Any:
        return self._client.get(f"/api/v1/{path}").raise_for_status().json()["data"]


@contextmanager
def scraping(targets: list[str], directory: Path) -> Iterator[Prometheus]:
    """A Prometheus as `dspark dashboards write` sets it up, but for how often it looks."""
    write_files(directory)
    discovery = directory / "prom_metrics_service_discovery.json"
    discovery.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": targets}]))
    file = directory / "prometheus" / "prometheus.yml"
    settings = yaml.safe_load(file.read_text())
    settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    settings["scrape_configs"][0]["file_sd_configs"] = [{"files": [str(discovery)]}]
    file.write_text(yaml.safe_dump(settings))
    rules = directory / "prometheus" / "alerts.yml"
    rules.write_text(rules.read_text().replace("interval: 30s", "interval: 1s"))
    address = f"127.0.0.1:{free_port()}"
    server = subprocess.Popen(
        [
            *("prometheus", f"--config.file={file}", f"--web.listen-address={address}"),
            f"--storage.tsdb.path={directory / 'data'}",
        ],
        stderr=(directory / "prometheus.log").open("wb"),
    )
    try:
        prometheus = Prometheus(f"http://{address}")
        wait_for(lambda: server.poll() is not None or _is_up(prometheus), 60)
        assert server.poll() is None, (directory / "prometheus.log").read_text()
        yield prometheus
    finally:
        server.terminate()
        server.wait(30)


def _is_up(prometheus: Prometheus) -> bool:
    try:
        return bool(prometheus.query("up"))
    except (httpx.HTTPError, ValueError):
        return False


def metrics_address(server: psutil.Process) -> str:
    """Where the node agent of a cluster exports: Ray writes the port into its session."""
    commands = (" ".join(child.cmdline()) for child in server.children(recursive=True))
    session = next(m[1] for c in commands if (m := re.search(r"--session[-_]dir=(\S+)", c)))
    (port,) = (path.read_text() for path in Path(session).glob("metrics_export_port_*"))
    return f"127.0.0.1:{port}"


def ask(url: str, number: int) -> None:
    body = {
        "model": "demo",
        "prompt": f"Question: what is {number} times 7? Answer:",
        "max_tokens": 40,
        "temperature": 0.7 if number % 3 else 0.0,
    }
    if number % 8 == 1:
        body["seed"] = 5  # at a temperature: never drafted for
    headers = {"x-dspark-class": "batch" if number % 4 == 0 else "interactive"}
    httpx.post(f"{url}/v1/completions", json=body, headers=headers, timeout=180).raise_for_status()


def load_until(url: str, done: threading.Event) -> list[threading.Thread]:
    def run(first: int) -> None:
        number = first
        while not done.is_set():
            ask(url, number)
            number += 4

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    return threads


def empty_panels(prometheus: Prometheus) -> list[tuple[str, str, str]]:
    """Evaluates everything: dashboard, panel and expression of those without a series."""
    return [
        (name, panel["title"], target["expr"])
        for name, board in dashboards().items()
        for panel in board["panels"]
        for target in panel.get("targets", ())
        if not prometheus.query(without_variables(target["expr"]))
    ]


def empty_core_panels(prometheus: Prometheus) -> list[tuple[str, str, str]]:
    return [panel for panel in empty_panels(prometheus) if panel[1] in CORE[panel[0]]]


def rules_of(prometheus: Prometheus) -> list[dict[str, Any]]:
    """All of them, evaluated without an error."""
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert not [rule for rule in rules if rule["health"] == "err"]
    return rules


def active(prometheus: Prometheus) -> set[str]:
    """Alerts that fire or are about to."""
    return {one["labels"]["alertname"] for one in prometheus.get("alerts")["alerts"]}


def kept(prometheus: Prometheus) -> list[float]:
    """Shares of promises kept, by service class; none before the rule's first evaluation."""
    found = prometheus.query("dspark:promise_kept:ratio5m")
    return [float(one["value"][1]) for one in found]


def test_every_panel_shows_what_replicas_publish(tmp_path):
    with exposed() as address, scraping([address], tmp_path) as prometheus:
        wait_for(lambda: not empty_panels(prometheus), 60)
        wait_for(lambda: all(rule["health"] == "ok" for rule in rules_of(prometheus)), 60)
        # Per scrape 2 kept, 1 late and 1 refused; 3 tokens in 2 steps, one of them accepted.
        wait_for(lambda: kept(prometheus) == [0.5], 60)
        wait_for(lambda: "DSparkPromiseBroken" in active(prometheus), 60)
        assert not active(prometheus) & {"DSparkNoTarget", "DSparkPlansStale", "DSparkNoDrafter"}


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_dashboards_and_alerts_on_a_live_fleet(tmp_path):
    titles = {n: {p["title"] for p in board["panels"]} for n, board in dashboards().items()}
    assert all(set(core) <= titles[name] for name, core in CORE.items())
    config = demo_config(
        tmp_path / "demo.yaml", models={"demo": "split"}, classes=CLASSES, stall_limit_s=120
    )
    settings = yaml.safe_load(config.read_text())
    args = settings["applications"][0]["args"]
    del args["models"][0]["policy"]  # the default has a budget
    args["request_log"] = str(tmp_path / "requests")
    config.write_text(yaml.safe_dump(settings))
    env = {"OMP_NUM_THREADS": "1", "RAY_metrics_report_interval_ms": "2000"}
    with (
        serving_process(config, tmp_path / "serve.log", **env) as (url, server),
        scraping([metrics_address(server)], tmp_path / "observe") as prometheus,
    ):
        page = httpx.get(f"{url}/fleet/ui")
        assert page.headers["content-type"].startswith("text/html")
        assert "<title>Fleet</title>" in page.text
        done = threading.Event()
        threads = load_until(url, done)
        try:
            deadline = time.monotonic() + 180
            while (empty := empty_core_panels(prometheus)) and time.monotonic() < deadline:
                time.sleep(3)
        finally:
            done.set()
            for thread in threads:
                thread.join(200)
        assert not empty

        # Nothing is exported under our name that is not declared.
        series = prometheus.get("label/__name__/values")
        ours = {name for name in series if name.startswith("ray_dspark_")}
        assert ours <= {name for metric in METRICS for name in metric.series}

        # What Prometheus has is what the fleet says.
        def shown(name: str) -> float:
            return float(fleet(url, "demo")["speculation"][name])

        for exported, name in (
            ("ray_dspark_committed_tokens_total", "committed_tokens"),
            ("ray_dspark_draft_tokens_total", "draft_tokens"),
            ("ray_dspark_accepted_tokens_total", "accepted_tokens"),
        ):
            wait_for(lambda e=exported, n=name: prometheus.total(e) == shown(n), 30)

        # Every request has its line, and is counted.
        (log,) = (tmp_path / "requests").iterdir()
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["status"] for line in lines} == {200}
        assert len({line["request_id"] for line in lines}) == len(lines) > 0
        for expression in (
            'ray_dspark_class_requests_total{outcome=~"met|missed"}',
            "ray_dspark_ttft_seconds_count",
        ):
            wait_for(lambda e=expression: prometheus.total(e) == len(lines), 30)

        # Prometheus evaluates the rules; a fleet without faults alarms nobody.
        rules = rules_of(prometheus)
        assert not [r["name"] for r in rules if r.get("state") == "firing"]
        recorded = {rule["name"] for rule in rules if rule["type"] == "recording"}
        assert recorded == {n for r in rules for n in metric_names(r["query"]) if ":" in n}

        # What is not let in is counted.
        greedy = {"model": "demo", "prompt": "Once", "max_tokens": 1, "n": 1000}
        assert httpx.post(f"{url}/v1/completions", json=greedy, timeout=60).status_code == 400
        beyond = 'ray_dspark_denied_requests_total{reason="beyond_limits"}'
        wait_for(lambda: prometheus.total(beyond) == 1, 30)
