"""Two nodes, a target on each, and the network between them cut under load: for seconds, for good.

The second node lives in a network namespace of its own; what clients talk to, drafter and
controllers are on the first one. Run by `make test-long`, as root. The tests go on from each
other's cluster, in this order.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from vllm import SamplingParams

from deployments.foreground import HUNG_REPLICAS_END
from loadtest.prompts import PROMPTS
from tests.integration.chaos.faults import Faults
from tests.integration.chaos.load import MAX_TOKENS, RIGHT, Load, Outcome
from tests.integration.network_namespace import HERE, THERE, Namespace, network_namespace
from tests.integration.ray_nodes import ray_nodes
from tests.integration.served import demo_config, fleet, serving, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

CUT_S = 8.0  # Ray takes a node for dead after half a minute
UP_S = 400.0
NUM_REQUESTS = 40
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
    node: Any  # starts the second node, for as long as the context lasts

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
    document = yaml.safe_load(path.read_text())
    document["proxy_location"] = "HeadOnly"
    (application,) = document["applications"]
    application["args"]["models"][0]["drafter"]["resources"] = {"front": 0.1}
    front = {"num_cpus": 0.1, "resources": {"front": 0.1}}
    application["deployments"] = [
        {"name": name, "ray_actor_options": front} for name in ("Ingress", "Controller")
    ]
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("partition")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with ExitStack() as stack:
        there = stack.enter_context(network_namespace())
        if there is None:
            pytest.skip("no network namespace can be made here: that takes root, and `ip`")
        nodes = stack.enter_context(ray_nodes(HEAD, **token, **dict([HUNG_REPLICAS_END])))

        @contextmanager
        def node() -> Iterator[None]:
            """The second one, until the end of the context."""
            command = [
                *(str(Path(sys.executable).with_name("ray")), "start", "--block"),
                *("--address", nodes.address, "--node-ip-address", THERE),
                *("--num-cpus", "4", "--resources", '{"target": 1}'),
            ]
            with (folder / "node.log").open("ab") as out:
                process = subprocess.Popen(
                    there.command(command), stdout=out, stderr=out, env=os.environ | token
                )
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

        stack.enter_context(node())
        ray = token | {"RAY_ADDRESS": nodes.address}
        url = stack.enter_context(serving(config(folder / "serve.yaml"), folder / "log", **ray))
        yield Served(url, there, node)


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
    load = Load(served.url, right, NUM_REQUESTS)
    faults = Faults(lambda: load.now_s)
    try:
        faults.last("both serve", lambda: None, 5)
        faults.cause(
            "network to the second node cut for good",
            served.there.cut,
            lambda: len(served.targets()) == 1 and lost(served.url) > 0,
        )
    finally:
        all_right(load.join())
    assert set(served.targets()) < before


def test_a_node_that_comes_back_serves_again(served, right):
    served.there.mend()
    with served.node():
        wait_for(served.has_two, UP_S)
        load = Load(served.url, right, NUM_REQUESTS)
        all_right(load.join())


def lost(url: str) -> int:
    """Requests that went on, or began anew, on another target."""
    found = httpx.get(f"{url}/fleet", timeout=30).json()["lost_targets"]
    return int(found["continued"] + found["restarted"])
