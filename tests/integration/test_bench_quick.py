"""`dspark bench --quick` as a user starts it: the demo, off and colocated."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from profiles.load_records import load_load_records
from tests.integration.served import free_port

pytestmark = pytest.mark.long


def test_a_quick_look_has_every_row_and_leaves_nothing_running(tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "cluster.cli", "bench", "--quick"]
    command += ["--port", str(port), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr
    records = load_load_records(tmp_path)
    assert Counter(run.arm for run in records.runs) == {"off": 6, "colocated causal": 6}
    assert {row.status for row in records.requests} == {"ok"}
    assert {row.counted_by for row in records.requests} == {"token_ids"}
    assert {row.output_tokens for row in records.requests} == {64}
    drafted = [run for run in records.runs if run.arm != "off" and run.load_value == 1]
    assert all(run.verified_drafts > 0 and run.draft_tokens > 0 for run in drafted)
    assert all(run.cpu_s > 0 for run in records.runs)
    assert "| closed:16 |" in done.stdout
    assert (tmp_path / "report.html").exists()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert f"--port {port}" not in left.stdout
