"""A rank of a tensor-parallel target is killed: its whole group goes, and another comes.

Run by `make test-long`.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, engine_of, fleet, serving, wait_for

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

MAX_TOKENS = 300


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    config = demo_config(
        folder / "serve.yaml",
        models={"two": "colocated"},
        fixed=("colocated",),
        tensor_parallel=2,
        threads=1,
        stall_limit_s=10,
    )
    with serving(config, folder / "log") as base:
        yield base


def ask(url: str, i: int) -> str:
    body = {
        "model": "two",
        "messages": [{"role": "user", "content": PROMPTS[i]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "ignore_eos": True,
    }
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=400).raise_for_status()
    return str(reply.json()["choices"][0]["message"]["content"])


def target(url: str) -> dict[str, Any] | None:
    """The one that reports; None while there is none."""
    try:
        found: list[dict[str, Any]] = fleet(url, "two")["targets"]
    except (httpx.HTTPError, KeyError):
        return None
    return found[0] if found else None


def ranks(engine: psutil.Process) -> list[psutil.Process]:
    return [
        process
        for process in engine.children(recursive=True)
        if " ".join(process.cmdline()).startswith("VLLM::Worker")
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_takes_its_group_along_and_another_group_answers(url, rank):
    undisturbed = [ask(url, i) for i in range(2)]
    before = wait_for(lambda: target(url), 200)
    replica, engine = psutil.Process(before["pid"]), engine_of(before["pid"])
    group = ranks(engine)
    assert len(group) == 2
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(ask, url, i) for i in range(2)]
        wait_for(lambda: target(url)["stats"]["requests"] > 0)
        group[rank].kill()
        wait_for(lambda: not any(p.is_running() for p in (replica, engine, *group)), 60)
        assert [answer.result() for answer in answers] == undisturbed
    after = wait_for(lambda: (found := target(url)) and found["pid"] != before["pid"] and found)
    new_group = ranks(engine_of(after["pid"]))
    assert len(new_group) == 2
    assert not {process.pid for process in new_group} & {process.pid for process in group}
