"""Every kind of process killed, stopped or cut off while 500 greedy requests and more come in.

Run by `make test-long`. It prints what it counted; what must hold is asserted.
"""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from loadtest.prompts import PROMPTS
from tests.integration.served import (
    demo_config,
    engine_of,
    fleet,
    processes,
    serving_process,
    wait_for,
)
from tests.integration.tcp_relay import relaying

pytestmark = pytest.mark.long

NUM_REQUESTS = 500
PER_S = 2.5  # half of what one target of the demo does on two cores: one may be away
MAX_TOKENS = 40
RIGHT, REFUSED, FAILED, BROKEN, WRONG = "right", "429", "5xx", "broken stream", "wrong"


@dataclass(frozen=True)
class Outcome:
    """What became of request `i`, sent `sent_s` and ended `ended_s` after the beginning."""

    i: int
    kind: str
    sent_s: float
    ended_s: float
    longest_gap_s: float


@contextmanager
def full_disk(directory: Path) -> Iterator[Path]:
    """A file system of 64 KiB without a byte to spare; an ordinary one, with a warning, where
    none can be mounted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        print("no file system can be mounted here: the full disk is left out")
        yield directory
        return
    try:
        (directory / "ballast").write_bytes(bytes(64 << 10))
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)


def send(url: str, i: int, began_s: float, right: dict[int, str]) -> Outcome:
    """Every second request is streamed. `right` are the answers by prompt."""
    body = {
        "model": "split",
        "messages": [{"role": "user", "content": PROMPTS[i // 2 % len(PROMPTS)]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": i % 2 == 0,
    }
    sent_s = last_s = time.monotonic()
    gap_s, text, kind = 0.0, "", BROKEN
    try:
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=200) as reply:
            if reply.status_code != 200:
                kind = REFUSED if reply.status_code == 429 else FAILED
                assert reply.status_code == 429 or reply.status_code >= 500, reply.read()
            elif not body["stream"]:
                text = json.loads(reply.read())["choices"][0]["message"]["content"]
                kind = RIGHT
            else:
                for line in reply.iter_lines():
                    now_s = time.monotonic()
                    gap_s, last_s = max(gap_s, now_s - last_s), now_s
                    if line == "data: [DONE]":
                        kind = RIGHT
                    elif line.startswith("data: "):
                        chunk = json.loads(line[6:])
                        for choice in chunk.get("choices", []):
                            text += choice["delta"].get("content") or ""
                        if "error" in chunk:
                            kind = FAILED
                            break
    except httpx.ConnectError:
        kind = FAILED  # nothing was taken
    except httpx.RemoteProtocolError:
        kind = BROKEN
    if kind == RIGHT and text != right.setdefault(i // 2 % len(PROMPTS), text):
        kind = WRONG
    return Outcome(i, kind, sent_s - began_s, time.monotonic() - began_s, gap_s)


class Load:
    """Requests at a steady rate until `join`, `NUM_REQUESTS` at least, and what became of them."""

    def __init__(self, url: str, right: dict[int, str]) -> None:
        self.outcomes: list[Outcome] = []
        self._is_enough = threading.Event()
        self._url, self._right = url, right
        self._began_s = time.monotonic()
        self._pool = ThreadPoolExecutor(128)
        self._thread = threading.Thread(target=self._send_all)
        self._thread.start()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began_s

    def _send_all(self) -> None:
        for i in itertools.count():
            if i >= NUM_REQUESTS and self._is_enough.is_set():
                return
            time.sleep(max(0.0, i / PER_S - self.now_s))
            future = self._pool.submit(send, self._url, i, self._began_s, self._right)
            future.add_done_callback(lambda done: self.outcomes.append(done.result()))

    def join(self) -> None:
        self._is_enough.set()
        self._thread.join()
        self._pool.shutdown()


def longest_gap_s(outcomes: list[Outcome], at_s: float) -> float:
    """Between events of streams that were under way then and came out right."""
    gaps = [o.longest_gap_s for o in outcomes if o.kind == RIGHT and o.sent_s < at_s < o.ended_s]
    return round(max(gaps, default=0.0), 2)


def targets(url: str) -> list[int]:
    """The process ids of the targets that report; none while nobody answers."""
    try:
        return [target["pid"] for target in fleet(url, "split")["targets"]]
    except (httpx.HTTPError, KeyError):
        return []


def ask_drafter_at(url: str, address: str | None) -> None:
    change = httpx.patch(f"{url}/fleet/models/split", json={"drafter_address": address}, timeout=30)
    change.raise_for_status()


def test_whatever_dies_the_answers_are_right(tmp_path: Path) -> None:
    with full_disk(tmp_path / "state") as state:
        config = demo_config(
            tmp_path / "serve.yaml", models={"split": "split"}, replicas=2, stall_limit_s=8
        )
        document = yaml.safe_load(config.read_text())
        document["applications"][0]["args"] |= {"state_dir": str(state)}
        config.write_text(yaml.safe_dump(document))
        with serving_process(config, tmp_path / "log") as (url, server):
            run(url, server, tmp_path / "chaos.json")


def run(url: str, server: psutil.Process, results: Path) -> None:
    right: dict[int, str] = {}
    began_s = time.monotonic()
    with ThreadPoolExecutor(8) as pool:  # undisturbed, none streamed
        odd = range(1, 2 * len(PROMPTS), 2)
        undisturbed = pool.map(lambda i: send(url, i, began_s, right).kind, odd)
        assert set(undisturbed) == {RIGHT}
    assert len(right) == len(PROMPTS)
    load = Load(url, right)
    faults: list[tuple[str, float, float]] = []  # what, when, whole again

    def cause(name: str, fault: Callable[[], None], whole: Callable[[], Any]) -> None:
        at_s = load.now_s
        fault()
        wait_for(whole, 200)
        faults.append((name, round(at_s, 1), round(load.now_s, 1)))
        time.sleep(3)

    def for_8_s() -> bool:
        return load.now_s > faults[-1][2] + 8

    def kill(title: str) -> Callable[[], None]:
        def now() -> None:
            found = processes(server, title)
            assert found, title
            for process in found:
                process.kill()

        return now

    def of(title: str) -> set[int]:
        return {process.pid for process in processes(server, title)}

    def another(title: str) -> Callable[[], bool]:
        before = of(title)
        return lambda: bool(of(title) - before)

    def both() -> list[int] | None:
        found = targets(url)
        return found if len(found) == 2 else None

    def two_targets_without(pid: int) -> Callable[[], bool]:
        return lambda: len(set(targets(url)) - {pid}) == 2

    (drafter,) = processes(server, "ray::ServeReplica:test:Drafter:split")
    cause("drafter kill -9", drafter.kill, another("ray::ServeReplica:test:Drafter:split"))
    (drafter,) = wait_for(lambda: processes(server, "ray::ServeReplica:test:Drafter:split"))
    cause("drafter stopped", drafter.suspend, for_8_s)
    cause("drafter goes on", drafter.resume, lambda: True)

    with relaying(fleet(url, "split")["drafters"][0]["address"]) as network:

        def slow_network() -> None:
            network.delay_s = 0.03
            ask_drafter_at(url, network.address)

        cause("network slow", slow_network, lambda: for_8_s() and network.num_bytes > 0)
        cause("network cut", lambda: setattr(network, "is_cut", True), for_8_s)
        cause("network whole", lambda: ask_drafter_at(url, None), for_8_s)
    cause("controller kill -9", kill("ray::ControllerActor"), both)
    before_targets = load.now_s
    pid = wait_for(both, 60)[0]
    cause("target kill -9", psutil.Process(pid).kill, two_targets_without(pid))
    cause("Serve controller kill -9", kill("ray::ServeController"), another("ray::ServeController"))
    pid = wait_for(both, 60)[0]
    cause("engine stopped", engine_of(pid).suspend, two_targets_without(pid))
    title = "ray::ServeReplica:test:Ingress"
    cause("ingress kill -9", kill(title), another(title))
    pid = wait_for(both, 60)[0]
    cause("target stopped", lambda: psutil.Process(pid).send_signal(signal.SIGSTOP),
          two_targets_without(pid))  # fmt: skip
    load.join()

    outcomes = load.outcomes
    kinds = Counter(outcome.kind for outcome in outcomes)
    lost = httpx.get(f"{url}/fleet").json()["lost_targets"]
    report = {
        "requests": len(outcomes),
        "outcomes": dict(kinds),
        "faults": [
            {
                "what": what,
                "at_s": at_s,
                "whole_after_s": round(whole_s - at_s, 1),
                "longest_gap_s": longest_gap_s(outcomes, at_s),
            }
            for what, at_s, whole_s in faults
        ],
        "ended_badly": [
            [o.kind, round(o.sent_s, 1), round(o.ended_s, 1)] for o in outcomes if o.kind != RIGHT
        ],
        "lost_targets": lost,
    }
    results.write_text(json.dumps(report, indent=1))
    print(results.read_text(), flush=True)

    assert len(outcomes) >= NUM_REQUESTS
    assert sorted(o.i for o in outcomes) == list(range(len(outcomes)))
    assert max(o.sent_s for o in outcomes) > faults[-1][1]  # under load, all of them
    assert kinds[WRONG] == 0
    assert kinds[RIGHT] >= 0.98 * len(outcomes)
    assert all(o.kind == RIGHT for o in outcomes if o.ended_s < before_targets)
    assert lost["given_up"] == 0
