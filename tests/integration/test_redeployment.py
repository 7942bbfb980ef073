"""A changed Serve file under load: nobody notices, and a broken one changes nothing and says why.

Run by `make test-long`. The tests go on from each other's fleet, in this order.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import yaml

from loadtest.prompts import PROMPTS
from tests.integration.ray_nodes import ray_nodes
from tests.integration.served import demo_config, fleet, free_port, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

NUM_PROMPTS, MAX_TOKENS = 6, 60
UP_S = 600  # two replicas start beside what serves, on the same two cores
SERVE = str(Path(sys.executable).with_name("serve"))


@dataclass(frozen=True)
class Fleet:
    """A cluster of its own, with its dashboard, and where its application answers."""

    url: str
    dashboard: str
    env: dict[str, str]
    folder: Path

    def file(self, name: str, **target: Any) -> Path:
        """The demo with one target, which has room for another; `target` are its settings."""
        settings = {"stall_limit_s": 120} | target
        path = demo_config(self.folder / f"{name}.yaml", models={"demo": "split"}, **settings)
        document = yaml.safe_load(path.read_text())
        document["http_options"]["port"] = httpx.URL(self.url).port
        surge = {"name": "Target:demo", "max_surge_percent": 1}
        document["applications"][0]["deployments"] = [surge]
        path.write_text(yaml.safe_dump(document))
        return path

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=os.environ | self.env | env, capture_output=True, text=True, timeout=UP_S
        )

    def serve_deploy(self, file: Path) -> None:
        sent = self.run(SERVE, "deploy", str(file), "--address", self.dashboard)
        assert sent.returncode == 0, sent.stderr

    def dspark_deploy(self, file: Path) -> subprocess.CompletedProcess[str]:
        ours = [sys.executable, "-m", "cluster.cli", "deploy", "--config", str(file)]
        done = self.run(*ours)
        print(done.stdout, done.stderr)
        return done

    def application(self) -> dict[str, Any]:
        """Its status and message, as `serve status` shows them."""
        shown = self.run(SERVE, "status", "--address", self.dashboard)
        assert shown.returncode == 0, shown.stderr
        found: dict[str, Any] = yaml.safe_load(shown.stdout)["applications"]["test"]
        return found

    def has(self, status: str) -> bool:
        return bool(self.application()["status"] == status)

    def pids(self, *kinds: str) -> set[int]:
        """Of targets and drafters; nothing while the controller is being replaced."""
        try:
            model = fleet(self.url, "demo")
        except (httpx.HTTPError, KeyError):
            return set()
        return {one["pid"] for kind in kinds or ("targets", "drafters") for one in model[kind]}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    head = {"num_cpus": 16, "include_dashboard": True, "dashboard_port": free_port()}
    with ray_nodes(head, **token) as nodes:
        one = Fleet(
            f"http://127.0.0.1:{free_port()}",
            f"http://{nodes.dashboard}",
            token | {"RAY_ADDRESS": nodes.address},
            tmp_path_factory.mktemp("redeployed"),
        )
        one.serve_deploy(one.file("first"))
        wait_for(lambda: one.has("RUNNING"), UP_S)
        wait_for(lambda: len(one.pids()) == 2)
        yield one


def ask(url: str, i: int) -> str:
    """The greedy answer to prompt `i`; every second one is streamed. Raises for a failed one."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240)
    request: dict[str, Any] = {
        "model": "demo",
        "messages": [{"role": "user", "content": PROMPTS[i]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    if i % 2:
        return client.chat.completions.create(**request).choices[0].message.content or ""
    chunks = list(client.chat.completions.create(**request, stream=True))
    assert chunks[-1].choices[0].finish_reason is not None, "it broke off"
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)


class Load:
    """Two clients that ask one request after the other; what was wrong, and how many were right."""

    def __init__(self, url: str, right: list[str]) -> None:
        self.faults: list[str] = []
        self.num_right = 0
        self._url, self._right = url, right
        self._is_over = threading.Event()
        self._clients = [threading.Thread(target=self._run, args=(k,)) for k in range(2)]
        for client in self._clients:
            client.start()

    def _run(self, i: int) -> None:
        while not self._is_over.is_set():
            try:
                is_right = ask(self._url, i) == self._right[i]
            except (openai.OpenAIError, httpx.HTTPError, AssertionError) as error:
                self.faults.append(f"{time.strftime('%X')} {type(error).__name__}: {error}")
                time.sleep(0.5)
            else:
                self.num_right += is_right
                if not is_right:
                    self.faults.append(f"another answer to prompt {i}")
            i = (i + 1) % NUM_PROMPTS

    def end(self) -> None:
        self._is_over.set()
        for client in self._clients:
            client.join(300)


@pytest.fixture(scope="module")
def right(served: Fleet) -> list[str]:
    return [ask(served.url, i) for i in range(NUM_PROMPTS)]


@contextmanager
def nobody_notices(served: Fleet, right: list[str]) -> Iterator[None]:
    """Load around what happens, and for a moment after it; not one request fails."""
    load = Load(served.url, right)
    try:
        wait_for(lambda: load.num_right >= 4, 120)
        yield
        after = load.num_right
        wait_for(lambda: load.num_right >= after + 8 or load.faults, 240)
    finally:
        load.end()
    assert load.faults == []


def test_serve_deploy_of_a_changed_file(served, right):
    before = served.pids()
    with nobody_notices(served, right):
        served.serve_deploy(served.file("changed", max_num_seqs=6))
        wait_for(lambda: served.has("RUNNING"), UP_S)
        wait_for(lambda: len(served.pids()) == 2 and not served.pids() & before, 120)


def test_serve_deploy_of_a_file_that_cannot_be(served, right):
    before = served.pids()
    broken = yaml.safe_load(served.file("first").read_text())
    broken["applications"][0]["args"]["models"][0]["target"]["max_num_sequences"] = 4
    file = served.folder / "broken.yaml"
    file.write_text(yaml.safe_dump(broken))
    with nobody_notices(served, right):
        served.serve_deploy(file)
        wait_for(lambda: served.has("DEPLOY_FAILED"), UP_S)
        last = served.application()["message"].strip().splitlines()[-1]
        assert "max_num_sequences" in last
        wait_for(lambda: served.pids() == before)
    refused = served.dspark_deploy(file)  # before it is sent
    assert (refused.returncode, "max_num_sequences" in refused.stderr) == (2, True)


def test_dspark_deploy_of_a_changed_file(served, right):
    """Over what the one before left: a target that runs, of an application that failed."""
    before = served.pids()
    with nobody_notices(served, right):
        done = served.dspark_deploy(served.file("again", max_num_seqs=5))
        assert (done.returncode, "running after" in done.stdout) == (0, True)
        assert "demo: the next replica starts before an old one goes" in done.stdout
        wait_for(lambda: len(served.pids()) == 2 and not served.pids() & before, 120)


def test_dspark_deploy_of_a_file_whose_engine_does_not_start(served, right):
    before = served.pids("targets")
    # Fewer tokens than requests in a step: vLLM refuses it, in the replica.
    engine_kwargs = {"max_num_batched_tokens": 2}
    with nobody_notices(served, right):
        done = served.dspark_deploy(served.file("engine", engine_kwargs=engine_kwargs))
        assert done.returncode == 1
        assert "it does not start: Target:demo: " in done.stdout
        assert "max_num_batched_tokens" in done.stdout
        assert "it runs as before" in done.stdout
        wait_for(lambda: len(served.pids("drafters")) == 1, 120)  # another one, as it was
        assert served.pids("targets") == before  # it never went
