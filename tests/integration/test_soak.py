"""Half an hour at 80 % load: memory, sockets and files do not grow, and no session is left.

Run by `make test-long`; `DSPARK_SOAK_S` makes it shorter or longer. It prints a table by process,
and writes it as JSON to the path in `DSPARK_SOAK_JSON`.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, fleet, serving_process, wait_for
from tests.integration.soak.footprints import watched
from tests.integration.soak.growth import Growth, as_markdown, as_plain, growth

SOAK_S = float(os.environ.get("DSPARK_SOAK_S", "1800"))
SAMPLE_S = max(SOAK_S / 360, 1.0)
SEATS = 8

pytestmark = [pytest.mark.long, pytest.mark.timeout(SOAK_S + 900)]


def one_request(url: str, seed: int, seconds: float) -> int:
    """The status of a request like many: some streamed, some sampled, some given up."""
    draw = random.Random(seed)
    body = {
        "model": "split",
        "messages": [{"role": "user", "content": draw.choice(PROMPTS)}],
        "temperature": draw.choice([0, 0.7]),
        "max_tokens": draw.choice([8, 32, 64]),
        "stream": draw.random() < 0.7,
    }
    gives_up = draw.random() < 0.1
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as reply:
        for line in reply.iter_lines():
            if gives_up and line:
                break
    time.sleep(seconds)
    return reply.status_code


def soak(url: str, seconds: float, num_clients: int, pause_s: float) -> Counter[int]:
    """What `num_clients` got, one request after another, each with a pause behind it."""
    deadline_s = time.monotonic() + seconds

    def client(k: int) -> Counter[int]:
        statuses: Counter[int] = Counter()
        while time.monotonic() < deadline_s:
            seed = k * 1_000_000 + statuses.total()
            statuses[one_request(url, seed, pause_s)] += 1
        return statuses

    with ThreadPoolExecutor(num_clients) as pool:
        return sum(pool.map(client, range(num_clients)), Counter[int]())


def test_nothing_grows(tmp_path: Path) -> None:
    config = demo_config(tmp_path / "serve.yaml", models={"split": "split"})
    with serving_process(config, tmp_path / "log") as (url, server):
        began_s = time.monotonic()
        full = soak(url, 20, SEATS, 0.0).total()
        request_s = SEATS * (time.monotonic() - began_s) / full  # of one, at full load
        pause_s = request_s * (1 / 0.8 - 1)  # so that a fifth of the time passes between them
        with watched(server, SAMPLE_S) as samples:
            statuses = soak(url, SOAK_S, SEATS, pause_s)
            wait_until_idle(url)
        found = growth(samples)
        tell(statuses, found)
        assert statuses.keys() == {200}
        assert samples[-1].processes.keys() == samples[0].processes.keys()  # no process died
        assert [(one.title, one.growing) for one in found if one.growing] == []


def wait_until_idle(url: str) -> None:
    """Until nothing is under way, when no session must be open either."""

    def idle() -> bool:
        (target,), (drafter,) = (fleet(url, "split")[k] for k in ("targets", "drafters"))
        open_ = target["stats"]["requests"] + target["stats"]["sessions"]
        return bool(open_ + drafter["stats"]["engine"]["sessions"] == 0)

    wait_for(idle)


def tell(statuses: Counter[int], found: Sequence[Growth]) -> None:
    if path := os.environ.get("DSPARK_SOAK_JSON"):
        whole = {"seconds": SOAK_S, "statuses": dict(statuses), "processes": as_plain(found)}
        Path(path).write_text(json.dumps(whole, indent=1) + "\n")
    print(f"\n{dict(statuses)}\n\n{as_markdown(found)}", flush=True)
