"""That fuzzing tells what it did: schemathesis itself, against an application of four lines."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, HTTPException

from tests.integration.fuzzed_bodies import MATTER, statuses, too_little
from tests.integration.served import free_port

pytestmark = pytest.mark.light


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Chat that is particular, completions that take anything, and nothing else."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    def chat(body: dict[str, Any]) -> dict[str, Any]:
        if body.keys() != {"model", "messages", "max_tokens"}:
            raise HTTPException(400, "no")
        return {}

    @app.post("/v1/completions")
    def complete(body: dict[str, Any]) -> dict[str, Any]:
        return {}

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


def test_what_was_sent_is_read_and_what_nobody_tried_is_named(url: str, tmp_path: Path) -> None:
    report = tmp_path / "report.ndjson"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json"),
        *("--seed=7", "--max-examples=20", "--workers=1", "--checks=not_a_server_error"),
        *("--phases=fuzzing", "--no-shrink", "--report=ndjson", f"--report-ndjson-path={report}"),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "tests.integration.fuzzed_bodies"}
    done = subprocess.run(
        command, env=os.environ | hooks, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    found = statuses(report)
    chat, completions, *others = (found.get(operation, Counter()) for operation in MATTER)
    assert (chat.total(), completions.total()) == (20, 20)
    assert chat.keys() <= {200, 400, 422}
    assert chat[200] >= 3  # hardly any of them by itself
    assert [line.split(":")[0] for line in too_little(found, 20, 3)] == list(MATTER[2:])
    assert others == [Counter(), Counter()]


def scenario(operation: str, *statuses: int | None) -> str:
    sent = {str(i): {"response": s and {"status_code": s}} for i, s in enumerate(statuses)}
    recorder = {"label": operation} | ({"interactions": sent} if sent else {})
    return json.dumps({"ScenarioFinished": {"recorder": recorder}})


def test_examples_of_an_operation_are_counted_by_status(tmp_path: Path) -> None:
    report = tmp_path / "report.ndjson"
    lines = [
        json.dumps({"Initialize": {"seed": 7}}),
        scenario("POST /tokenize", 200, 400, None),
        scenario("POST /tokenize", 200),
        scenario("GET /v1/models"),
    ]
    report.write_text("\n".join(lines) + "\n")
    counts = Counter({200: 2, 400: 1, 0: 1})
    assert statuses(report) == {"POST /tokenize": counts, "GET /v1/models": Counter()}


@pytest.mark.parametrize(
    ("counts", "is_enough"),
    [
        ({200: 5, 400: 15}, True),
        ({200: 4, 400: 16}, False),
        ({200: 19}, False),
        ({302: 5, 500: 15}, False),
        ({}, False),
    ],
)
def test_few_examples_or_few_answers_are_too_little(
    counts: dict[int, int], is_enough: bool
) -> None:
    found = {operation: Counter({200: 20}) for operation in MATTER} | {MATTER[1]: Counter(counts)}
    named = [line.split(":")[0] for line in too_little(found, examples=20, answered=5)]
    assert named == ([] if is_enough else [MATTER[1]])
