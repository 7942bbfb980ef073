"""A target whose two ranks run on two Ray nodes: placed by Serve, exact, rank 0 drafts."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from vllm import SamplingParams

from loadtest.prompts import PROMPTS
from tests.integration.ray_nodes import ray_nodes
from tests.integration.served import demo_config, fleet, serving, wait_for

pytestmark = pytest.mark.long  # minutes until two nodes' ranks are up
CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:12]]


# A pretended GPU each: a node has room for one rank, so two nodes it has to be.
NODE = {"num_cpus": 4, "num_gpus": 1}


@dataclass(frozen=True)
class Served:
    """Our application on somebody's cluster; `interrupt` is Ctrl-C, and waits for its end."""

    url: str
    ray: dict[str, str]  # environment of who wants to reach the cluster
    interrupt: Callable[[], None]


@pytest.fixture(scope="module", params=["split", "colocated"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("two-nodes")
    config = demo_config(
        folder / "serve.yaml",
        models={"two": request.param},
        fixed=(request.param,),
        tensor_parallel=2,
        nodes=2,
        threads=1,
    )
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with ray_nodes(NODE, NODE, **token) as nodes, ExitStack() as running:
        ray = token | {"RAY_ADDRESS": nodes.address}
        base = running.enter_context(serving(config, folder / "log", **ray))
        yield Served(base, ray, interrupt=running.close)


@pytest.fixture(scope="module")
def url(served: Served) -> str:
    return served.url


def say(url: str, chat: Any, **options: Any) -> str:
    body = {"model": "two", "messages": chat, "max_tokens": 40} | options
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


def stats(url: str) -> dict[str, Any]:
    found: dict[str, Any] = fleet(url, "two")["targets"][0]["stats"]
    return found


def test_greedy_answers_are_those_of_one_rank_without_speculation(url, plain):
    wait_for(lambda: "drafter" in fleet(url, "two")["targets"][0])
    results = plain.chat(CHATS, SamplingParams(temperature=0, max_tokens=40), use_tqdm=False)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda chat: say(url, chat, temperature=0), CHATS))
    assert answers == [result.outputs[0].text for result in results]
    wait_for(lambda: stats(url)["verified_drafts"] > 50)


def test_sampled_without_seed_both_nodes_emit_the_same_tokens_for_200_steps(url):
    before = stats(url)
    options = {"temperature": 0.8, "max_tokens": 800, "ignore_eos": True}
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda chat: say(url, chat, **options), CHATS[:4]))
    wait_for(lambda: stats(url)["steps"] >= before["steps"] + 200)
    wait_for(lambda: stats(url)["requests"] == 0)
    after = stats(url)
    assert after["ranks_agree"] is True
    assert after["committed_digest"] != before["committed_digest"]
    assert after["verified_drafts"] > before["verified_drafts"] + 200


NEIGHBOUR = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Neighbour:
    async def __call__(self, request):
        return "still here"

serve.run(Neighbour.bind(), name="neighbour", route_prefix="/neighbour")
"""


def test_ctrl_c_takes_away_its_own_application_and_no_other(served):
    """The last one: it ends what the others talk to."""

    def neighbour_says() -> str:
        return httpx.get(f"{served.url}/neighbour").text

    subprocess.run(
        [sys.executable, "-c", NEIGHBOUR], env=os.environ | served.ray, check=True, timeout=120
    )
    wait_for(lambda: neighbour_says() == "still here")
    served.interrupt()
    assert neighbour_says() == "still here"
    assert httpx.get(f"{served.url}/v1/models").status_code == 404
