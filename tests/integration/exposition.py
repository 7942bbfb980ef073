"""A fleet's metrics page without a fleet: samples of real reports, grown with every scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autoscale.calibration import Calibration
from autoscale.class_counts import ClassTotals
from autoscale.online_calibration import OnlineCalibration
from cluster.messages import IngressReport, TargetReport
from cluster.observability.metrics import FOREIGN, METRICS
from cluster.observability.samples import (
    PoolSizes,
    Sample,
    drafter_samples,
    fleet_samples,
    ingress_samples,
    learning_samples,
    plan_samples,
    target_samples,
)
from profiles.provenance import DraftingPair
from tests.unit.cluster.reports import attached_report, drafter_report, drafting_report, grown

BY_NAME = {metric.name: metric for metric in METRICS}
HELD = {"age_s": 1.0, "is_stale": False, "outdated": 1, "refused": {"seats": 1}}
PAIR = DraftingPair("m", "r" * 12, "d", "v" * 12)
LEARNED = {
    "calibration": {
        "greedy/0": OnlineCalibration(Calibration((1.0,) * 3)).snapshot()
        | {"recent_ece": 0.05, "excess_ece": 0.01, "recent_ece_by_position": [0.1, 0.2, 0.3]}
    },
    "acceptance": {"rate": 0.5, "expected_rate": 0.6, "collapsed": False},
}
LOAD = {"arrivals_per_s": 2.0, "expected_arrivals_per_s": 3.0, "accepted_per_draft": 2.5}
LOAD |= {"drafter_busy": 0.5, "draft_wait_s": 0.004}
MODEL = {
    "targets": [{"placement": "split", "drafter": "d"}],
    "drafters": [{"canary": ""}],
    "load": LOAD,
}
FLEET = {"models": {"m": MODEL}}
POOLS = {"m": PoolSizes(1, 1)}


def samples(n: int) -> Iterator[tuple[Sample, dict[str, str]]]:
    """After `n` scrapes: every sample with its source's tags."""
    met = ClassTotals(arrived=4 * n, admitted=3 * n, shed_too_late=n, met=2 * n, missed=n)
    target = grown(drafting_report(totals=met), n)
    of_target = {"model": "m", "replica": "t"}
    for sample in (*target_samples(target), *plan_samples(HELD, n)):
        yield sample, of_target
    for sample in drafter_samples(replace(drafter_report(), stats=_grown_drafter(n))):
        yield sample, {"model": "m", "replica": "d"}
    for sample in target_samples(_attached()):
        yield sample, {"model": "m", "replica": "a"}
    for sample in ingress_samples(IngressReport("i", 1, n, n, 0), {"too_late": n}, {"no_key": n}):
        yield sample, {"replica": "i"}
    for sample in (*fleet_samples(FLEET, POOLS, {"flood": n}), *learning_samples(PAIR, LEARNED)):
        yield sample, {}


def _attached() -> TargetReport:
    """Of an engine that is up."""
    report = attached_report()
    engine = report.stats["engine"] | {"down": None}
    return replace(report, stats=dict(report.stats) | {"engine": engine})


def _grown_drafter(n: int) -> dict[str, Any]:
    stats = drafter_report().stats
    counts = ("drafts", "batches", "merged_steps", "bytes_in", "bytes_out")
    seconds = ("total_step_s", "total_wait_s")
    return stats | dict.fromkeys((*counts, *seconds), float(n))


def page(n: int) -> str:
    """As Prometheus reads it."""
    lines = [
        _line(BY_NAME[name].exported, tags | dict(own), value)
        for (name, value, own), tags in samples(n)
    ]
    tags = {"model": "m", "replica": "t", "service_class": "interactive"}
    lines += [
        _line(f"{metric.exported}_bucket", tags | {"le": bound}, n)
        for metric in METRICS
        if metric.buckets
        for bound in (*map(str, metric.buckets), "+Inf")
    ]
    foreign = ((name, n if name.endswith("_total") else 1) for name in FOREIGN)
    lines += [_line(name, _foreign_tags(name), value) for name, value in foreign]
    return "\n".join(sorted(lines)) + "\n"


def _foreign_tags(name: str) -> dict[str, str]:
    if name.startswith("ray_vllm"):
        return {"model_name": "m"} | ({"le": "+Inf"} if name.endswith("_bucket") else {})
    if name.startswith("ray_node"):
        return {"ip": "h"}
    if "_http_" in name:
        return {"application": "a", "error_code": "429"}
    return {"application": "a", "deployment": "Target:m"}


def _line(name: str, tags: dict[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{text}"' for key, text in tags.items())
    return f"{name}{{{shown}}} {float(value)}"


@contextmanager
def exposed() -> Iterator[str]:
    """Its address; every scrape finds more."""
    num_scrapes = iter(range(1, 10_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page(next(num_scrapes)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
