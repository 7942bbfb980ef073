"""Half an hour at 80 % load: memory, sessions, sockets and files stay what they were.

Run by `make test-long`; `DSPARK_SOAK_S` makes it shorter or longer.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, fleet, serving_process, wait_for

SOAK_S = float(os.environ.get("DSPARK_SOAK_S", "1800"))
WARM_UP = 0.25  # share of the time in which pools, caches and allocators may fill
SEATS = 8
MIB = 1 << 20

pytestmark = [pytest.mark.long, pytest.mark.timeout(SOAK_S + 900)]


@dataclass(frozen=True)
class Footprint:
    """One process's at one time."""

    title: str
    rss_mib: float
    files: int
    sockets: int


def footprints(server: psutil.Process) -> dict[int, Footprint]:
    """Of what serves: targets, their engines, drafters, ingress, controllers, proxy."""
    found = {}
    for process in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            if title.startswith(("ray::", "VLLM::")) and "IDLE" not in title:
                found[process.pid] = Footprint(
                    title[:60],
                    process.memory_info().rss / MIB,
                    process.num_fds(),
                    len(process.net_connections()),
                )
    return found


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
        soak(url, WARM_UP * SOAK_S, SEATS, pause_s)
        before = settled(url, server)
        statuses = soak(url, (1 - WARM_UP) * SOAK_S, SEATS, pause_s)
        after = settled(url, server)
        print(f"{statuses} {before} {after}")
        assert statuses.keys() == {200}
        assert after.keys() == before.keys()  # no process died
        for pid, then in before.items():
            now = after[pid]
            assert now.rss_mib < 1.05 * then.rss_mib + 16, (then, now)
            assert now.files <= then.files + 8, (then, now)
            assert now.sockets <= then.sockets + 4, (then, now)


def settled(url: str, server: psutil.Process) -> dict[int, Footprint]:
    """The footprints once nothing is under way, when no session must be open either."""

    def idle() -> bool:
        (target,), (drafter,) = (fleet(url, "split")[k] for k in ("targets", "drafters"))
        open_ = target["stats"]["requests"] + target["stats"]["sessions"]
        return bool(open_ + drafter["stats"]["engine"]["sessions"] == 0)

    wait_for(idle)
    return footprints(server)
