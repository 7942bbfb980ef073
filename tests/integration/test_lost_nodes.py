"""A target's ranks on two Ray nodes, its drafter on a third: nodes die, tokens stay right.

All nodes are on this machine; what clients talk to is on the head, which stays. Run by
`make test-long`. The tests go on from each other's cluster, in this order.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm import SamplingParams

from loadtest.prompts import PROMPTS
from tests.integration.ray_nodes import RayNodes, place, ray_nodes
from tests.integration.served import demo_config, fleet, serving, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

# A pretended GPU each: a node has room for one rank. The head has the first one, and the front.
HEAD = {"num_cpus": 8, "num_gpus": 1, "resources": {"front": 1}}
RANK = {"num_cpus": 4, "num_gpus": 1}
DRAFTS = {"num_cpus": 4, "resources": {"drafts": 1}}
RANK_NODE, DRAFTER_NODE = 1, 2  # by number: the head is 0
MODEL, MAX_TOKENS, UP_S = "two", 40, 400
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:12]]


@dataclass(frozen=True)
class Served:
    url: str
    nodes: RayNodes


def config(path: Path) -> Path:
    demo_config(
        path, models={MODEL: "split"}, tensor_parallel=2, nodes=2, threads=1, stall_limit_s=60
    )
    return place(path, {"drafts": 0.5}, ["Ingress"])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("lost-nodes")
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with ray_nodes(HEAD, RANK, DRAFTS, **token) as nodes:
        ray = token | {"RAY_ADDRESS": nodes.address}
        with serving(config(folder / "serve.yaml"), folder / "log", **ray) as url:
            yield Served(url, nodes)


@pytest.fixture(scope="module")
def right(plain: Any) -> list[str]:
    """What one rank without speculation answers."""
    results = plain.chat(
        CHATS, SamplingParams(temperature=0, max_tokens=MAX_TOKENS), use_tqdm=False
    )
    return [result.outputs[0].text for result in results]


def say(url: str, chat: Any, **options: Any) -> str:
    """Raises for an answer that is none."""
    body = {"model": MODEL, "messages": chat, "max_tokens": MAX_TOKENS, "temperature": 0} | options
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=500).raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


def say_all(url: str) -> list[str]:
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda chat: say(url, chat), CHATS))


def model(url: str) -> dict[str, Any]:
    """The fleet's view; of nothing while there is no controller: it may be on a lost node."""
    try:
        return fleet(url, MODEL)
    except (httpx.HTTPError, KeyError):
        return {"targets": [], "drafters": []}


def drafted(url: str) -> float:
    """Drafts that targets have verified; -1 while none reports."""
    targets = model(url)["targets"]
    return float(targets[0]["stats"]["verified_drafts"]) if targets else -1.0


def has_drafter(url: str) -> bool:
    """A target that reports and is sent to a drafter that does."""
    now = model(url)
    ids = {drafter["replica_id"] for drafter in now["drafters"]}
    return any(target.get("drafter") in ids for target in now["targets"])


def drafts_again(url: str, right: list[str]) -> None:
    """The right answers, with drafts verified on the way."""
    wait_for(lambda: has_drafter(url), UP_S)
    before = drafted(url)
    assert say_all(url) == right
    wait_for(lambda: drafted(url) > before)


def test_greedy_answers_are_those_of_one_rank_without_speculation(served, right):
    drafts_again(served.url, right)


def test_the_drafters_node_dies_in_the_middle(served, right):
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(say_all, served.url)
        time.sleep(1.0)
        served.nodes.kill(DRAFTER_NODE)
        assert answers.result() == right  # none failed, none is another one
    wait_for(lambda: not has_drafter(served.url), 120)
    assert say_all(served.url) == right  # plain decoding, for as long as nobody drafts
    served.nodes.add(**DRAFTS)
    drafts_again(served.url, right)


def test_a_targets_node_dies_in_the_middle(served, right):
    """There is one target: what it was asked waits for the next one, or is told that it failed."""
    (before,) = model(served.url)["targets"]

    def ask(i: int) -> str | None:
        try:
            return say(served.url, CHATS[i])
        except httpx.HTTPError:
            return None

    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(ask, i) for i in range(len(CHATS))]
        time.sleep(1.0)
        served.nodes.kill(RANK_NODE)
        served.nodes.add(**RANK)  # as a machine that comes back
        told = [answer.result() for answer in answers]
    wrong = [i for i, answer in enumerate(told) if answer not in (None, right[i])]
    print(f"{told.count(None)} of {len(told)} answers were given up")
    assert wrong == []

    def is_another() -> bool:
        targets = model(served.url)["targets"]
        return bool(targets) and targets[0]["replica_id"] != before["replica_id"]

    began_s = time.monotonic()
    wait_for(is_another, UP_S)
    print(f"another target after {time.monotonic() - began_s:.0f} s more")
    drafts_again(served.url, right)
