"""Two nodes, a target on each, and the network between them cut under load: for seconds, for good.

The second node lives in a network namespace of its own; what clients talk to, drafter and
controllers are on the first one. Run by `make test-long`, as root. The tests go on from each
other's cluster, in this order.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm import SamplingParams

from deployments.foreground import HUNG_REPLICAS_END
from loadtest.prompts import PROMPTS
from tests.integration.chaos.faults import Faults
from tests.integration.chaos.load import MAX_TOKENS, RIGHT, Load, Outcome
from tests.integration.network_namespace import HERE, THERE, Namespace, network_namespace
from tests.integration.ray_nodes import place, ray_nodes
from tests.integration.served import demo_config, fleet, serving, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CUT_S = 8.0  # Ray takes a node for dead after half a minute
UP_S = 400.0
NUM_REQUESTS = 40
NUM_LONG, LONG_TOKENS = 6, 400
ONE_TARGET = {"target": 1}
HEAD = {
    "num_cpus": 8,
    "node_ip_address": HERE,
    "resources": {"front": 1} | ONE_TARGET,
}


@dataclass(frozen=True)
class Served:
    url: str
    there: Namespace
    start_node: Callable[[], subprocess.Popen[bytes]]
    first_node: subprocess.Popen[bytes]  # there

    def targets(self) -> dict[str, dict[str, Any]]:
        """Those that report, by replica; none while nobody answers."""
        try:
            return {one["replica_id"]: one for one in fleet(self.url, "split")["targets"]}
        except (httpx.HTTPError, KeyError):
            return {}

    def has_two(self) -> bool:
        return len(self.targets()) == 2


def config(path: Path) -> Path:
    demo_config(path, models={"split": "split"}, replicas=2, stall_limit_s=60, resources=ONE_TARGET)
    return place(path, {"front": 0.1}, ["Ingress", "Controller"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("partition")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with ExitStack() as stack:
        there = stack.enter_context(network_namespace())
        if there is None:
            pytest.skip("no network namespace can be made here: that takes root, and `ip`")
        nodes = stack.enter_context(ray_nodes(HEAD, **token, **dict([HUNG_REPLICAS_END])))

        def start_node() -> subprocess.Popen[bytes]:
            """There, until the end of all tests."""
            command = [
                *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
                *("--address", nodes.address, "--node-ip-address", THERE),
                *("--num-cpus", "4", "--resources", '{"target": 1}'),
            ]
            with (folder / "node.log").open("ab") as out:
                process = subprocess.Popen(
                    there.command(command), stdout=out, stderr=out, env=os.environ | token
                )
            stack.callback(process.wait, 60)
            stack.callback(process.terminate)
            return process

        first_node = start_node()
        ray = token | {"RAY_ADDRESS": nodes.address}
        url = stack.enter_context(serving(config(folder / "serve.yaml"), folder / "log", **ray))
        yield Served(url, there, start_node, first_node)


@pytest.fixture(scope="module")
def right(plain: Any) -> dict[str, str]:
    """What plain decoding answers, by prompt."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    params = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)
    results = plain.chat(chats, params, use_tqdm=False)
    return {prompt: result.outputs[0].text for prompt, result in zip(PROMPTS, results, strict=True)}


def all_right(outcomes: list[Outcome]) -> None:
    wrong = [one for one in outcomes if one.kind != RIGHT]
    assert wrong == []


def test_a_cut_of_seconds_is_a_pause(served, right):
    wait_for(served.has_two, UP_S)
    before = served.targets()
    load = Load(served.url, right, NUM_REQUESTS)
    faults = Faults(lambda: load.now_s)
    try:
        faults.last("network to the second node cut", served.there.cut, CUT_S)
        faults.cause("network whole", served.there.mend, served.has_two)
        faults.last("calm", lambda: None, 5)
    finally:
        all_right(load.join())
    assert served.targets().keys() == before.keys()


def test_what_ran_behind_a_cut_for_good_goes_on_on_the_other_side(served, right):
    before = set(served.targets())
    with ThreadPoolExecutor(NUM_LONG) as pool:
        undisturbed = list(pool.map(partial(long_answer, served.url), range(NUM_LONG)))
        load = Load(served.url, right, NUM_REQUESTS)
        faults = Faults(lambda: load.now_s)
        try:
            long_ones = [pool.submit(long_answer, served.url, i) for i in range(NUM_LONG)]
            wait_for(lambda: all(one["stats"]["requests"] > 1 for one in served.targets().values()))
            faults.cause(
                "network to the second node cut for good",
                served.there.cut,
                lambda: len(served.targets()) == 1,
            )
        finally:
            all_right(load.join())
        assert [one.result() for one in long_ones] == undisturbed
    assert set(served.targets()) < before
    found = httpx.get(f"{served.url}/fleet", timeout=30).json()["lost_targets"]
    assert found["continued"] > 0
    assert found["given_up"] == 0


def test_a_node_that_comes_back_serves_again(served, right):
    wait_for(lambda: served.first_node.poll() is not None, UP_S)  # it heard nothing of its head
    (alone,) = served.targets()
    served.there.mend()
    served.start_node()
    wait_for(served.has_two, UP_S)
    assert alone in served.targets()
    load = Load(served.url, right, NUM_REQUESTS)
    all_right(load.join())
    wait_for(lambda: all(map(num_admitted, served.targets().values())))


def num_admitted(target: dict[str, Any]) -> int:
    """Requests that had a seat there: its own first token took none."""
    return sum(one["admitted"] for one in target["stats"]["admission"]["classes"].values())


def long_answer(url: str, i: int) -> str:
    """One that is still under way when the network is cut, streamed."""
    body = {
        "model": "split",
        "messages": [{"role": "user", "content": PROMPTS[i]}],
        "temperature": 0,
        "max_tokens": LONG_TOKENS,
        "ignore_eos": True,
        "stream": True,
    }
    said = ""
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=200) as reply:
        for line in reply.raise_for_status().iter_lines():
            if line.startswith("data: {"):
                (choice,) = json.loads(line.removeprefix("data: "))["choices"]
                said += choice["delta"].get("content") or ""
    return said
