"""Confidences drift in a live fleet: the alarm fires, and online calibration mends them.

Run by `make test-long`. Requests go on all the while, under a policy that goes by confidences and
drafts always: where the default one pauses drafting, as it may on two cores, there is little to
learn from (`tests/unit/autoscale/test_speculation_comes_back.py` has what it does then).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.hooks import drifting_confidences, hooked
from tests.integration.served import demo_config, fleet, serving, wait_for

NUM_CLIENTS = 3
KEY = "q/0.4-0.8"
POLICY = {"kind": "threshold", "least_survival": 0.1}
LIMIT_S = 600
ENOUGH_LABELS = 16_000
NOTHING = {"recent_labels": 0, "drift_alarm": False}

pytestmark = [pytest.mark.long, pytest.mark.timeout(2700)]


@contextmanager
def requests_going_on(url: str) -> Iterator[None]:
    """Clients that ask one thing after another at temperature 0.7; every answer has to come."""
    stop = Event()

    def client(first: int) -> None:
        for i in itertools.count(first, NUM_CLIENTS):
            if stop.is_set():
                return
            prompt = PROMPTS[i % len(PROMPTS)]
            body = {"model": "split", "messages": [{"role": "user", "content": prompt}]}
            httpx.post(
                f"{url}/v1/chat/completions",
                json=body | {"temperature": 0.7, "max_tokens": 128},
                timeout=120,
            ).raise_for_status()

    with ThreadPoolExecutor(NUM_CLIENTS) as pool:
        clients = [pool.submit(client, i) for i in range(NUM_CLIENTS)]
        try:
            yield
        finally:
            stop.set()
        for one in clients:
            one.result()


def known(url: str) -> dict[str, Any]:
    """Of the calibration that serves; nothing yet before the first outcomes."""
    learned: list[dict[str, Any]] = fleet(url, "split")["learned"]
    (found,) = [pair.get("calibration", {}).get(KEY, NOTHING) for pair in learned] or [NOTHING]
    return found


def settled(url: str) -> dict[str, Any] | None:
    """What is known once it rests on enough labels, and no alarm is on."""
    found = known(url)
    return found if found["recent_labels"] >= ENOUGH_LABELS and not found["drift_alarm"] else None


def test_drift_is_alarmed_and_calibrated_away(tmp_path: Path) -> None:
    factor = tmp_path / "factor"
    drifting_confidences.drift_to(factor, 1.0)
    env = hooked("drifting_confidences") | {drifting_confidences.PATH: str(factor)}
    config = demo_config(tmp_path / "serve.yaml", models={"split": "split"}, fixed=())
    with serving(config, tmp_path / "log", **env) as url, requests_going_on(url):
        httpx.patch(f"{url}/fleet/models/split", json={"policy": POLICY}).raise_for_status()
        before = wait_for(lambda: settled(url), LIMIT_S)
        for drifted in (3.0, 0.3):  # too sure of everything, and of nothing
            drifting_confidences.drift_to(factor, drifted)
            alarmed = wait_for(lambda: known(url)["drift_alarm"] and known(url), LIMIT_S)
            after = wait_for(lambda: settled(url), LIMIT_S)
            errors = [one["recent_ece"] for one in (before, alarmed, after)]
            print(f"log-odds x{drifted}: ECE before, at the alarm, calibrated {errors}", end="")
            print(f", {after['excess_ece']} beyond noise")
            assert after["version"] > before["version"]
            assert after["excess_ece"] < 0.02
            before = after
