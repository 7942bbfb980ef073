"""Our client and our metrics beside `vllm bench serve`, on one server of several-token chunks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.conversations import Conversation
from loadtest.drive import Terms, run_closed
from profiles.frontier import latency, run_metrics
from tests.integration.demo import DEMO_TARGET
from tests.unit.loadtest.scripted_endpoint import scripted_endpoint
from tests.unit.loadtest.test_bench_report import SLO
from tests.unit.profiles.load_rows import run_row

CHUNKS = (1, *(3, 2, 4) * 6)
REQUESTS, CLIENTS = 6, 2
pytestmark = pytest.mark.long
# The build for processors has no console script for it: its library is the way in.
BENCH = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main;"
    "p = argparse.ArgumentParser(); add_cli_args(p); main(p.parse_args())"
)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """(vLLM's own summary, our rows) of the same requests to the same server."""
    directory = tmp_path_factory.mktemp("vllm-bench")
    prompts = directory / "prompts.jsonl"
    prompts.write_text("\n".join([json.dumps({"prompt": "please well"})] * REQUESTS))
    with scripted_endpoint(CHUNKS, ttft_s=0.5, gap_s=0.1) as server:
        arguments = {
            "backend": "openai-chat",
            "base-url": server.url,
            "endpoint": "/v1/chat/completions",
            "model": "demo",
            "tokenizer": DEMO_TARGET["source"],
            "dataset-name": "custom",
            "dataset-path": str(prompts),
            "custom-output-len": str(sum(CHUNKS)),
            "num-prompts": str(REQUESTS),
            "max-concurrency": str(CLIENTS),
            "result-dir": str(directory),
            "result-filename": "result.json",
        }
        command = [sys.executable, "-c", BENCH, "--save-result", "--save-detailed"]
        command += ["--skip-chat-template", "--num-warmups", "1"]
        command += [part for key, value in arguments.items() for part in (f"--{key}", value)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        theirs = json.loads(Path(directory / "result.json").read_text())
        terms = Terms("demo", sum(CHUNKS), 0.0, 30.0, {})
        chats = [Conversation(f"{i}", "chat", ("please well",)) for i in range(REQUESTS)]
        result = run_closed(server.url, terms, chats, CLIENTS)
    return theirs, result


def test_the_summaries_agree_within_one_percent(both):
    theirs, result = both
    rows = result.rows("r")
    answered = [latency(row) for row in rows]
    ours = run_metrics(run_row(window_s=result.wall_s, wall_s=result.wall_s), rows, SLO)
    gaps = [gap for one in answered for gap in one.itl_s]
    assert (theirs["completed"], theirs["total_output_tokens"]) == (6, 6 * sum(CHUNKS))
    assert sum(row.output_tokens for row in rows) == theirs["total_output_tokens"]
    assert ours.ttft_s * 1000 == pytest.approx(theirs["mean_ttft_ms"], rel=0.01)
    assert ours.tpot_s * 1000 == pytest.approx(theirs["mean_tpot_ms"], rel=0.01)
    assert sum(gaps) / len(gaps) * 1000 == pytest.approx(theirs["mean_itl_ms"], rel=0.01)
    assert ours.itl_p50_s * 1000 == pytest.approx(theirs["median_itl_ms"], rel=0.01)
    throughput = ours.tokens_per_s_per_replica
    assert throughput == pytest.approx(theirs["output_throughput"], rel=0.01)


def test_why_its_generator_is_not_used(both):
    """It stamps chunks and never says how many tokens one holds: chunks of three look like one."""
    theirs, result = both
    assert {len(gaps) for gaps in theirs["itls"]} == {len(CHUNKS) - 1}
    assert theirs["mean_itl_ms"] > 2.5 * theirs["mean_tpot_ms"]
    assert result.rows("r")[0].chunk_tokens == CHUNKS
