"""Targets that hang or die under load: nothing that was begun is lost, every token is right."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.served import demo_config, engine_of, fleet, serving, wait_for

pytestmark = pytest.mark.long

MAX_TOKENS = 200
NUM_REQUESTS = 8
STALL_LIMIT_S = 6


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("lost")
    config = demo_config(
        folder / "serve.yaml",
        models={"split": "split"},
        replicas=2,
        stall_limit_s=STALL_LIMIT_S,
    )
    with serving(config, folder / "log") as base:
        yield base


def ask(url: str, i: int) -> tuple[str, Any]:
    """The answer to prompt `i`, half of them streamed, and its usage."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=240)
    request: dict[str, Any] = {
        "model": "split",
        "messages": [{"role": "user", "content": PROMPTS[i]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "extra_body": {"ignore_eos": True},
    }
    if i % 4 >= 2:  # targets may take turns: each is to have some of both kinds
        reply = client.chat.completions.create(**request)
        return reply.choices[0].message.content or "", reply.usage.completion_tokens
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**request, **options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return text, chunks[-1].usage.completion_tokens


def ask_all(url: str, fault: Callable[[], None] | None = None) -> list[tuple[str, Any]]:
    """All answers; `fault` happens once every request is under way."""
    with ThreadPoolExecutor(NUM_REQUESTS) as pool:
        answers: list[Future[Any]] = [pool.submit(ask, url, i) for i in range(NUM_REQUESTS)]
        if fault is not None:
            time.sleep(1.0)
            fault()
            assert not any(answer.done() for answer in answers), "the fault came too late"
        return [answer.result() for answer in answers]


@pytest.fixture(scope="module")
def undisturbed(url: str) -> list[tuple[str, Any]]:
    return ask_all(url)


def targets(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = fleet(url, "split")["targets"]
    return found


def lost(url: str) -> dict[str, int]:
    found: dict[str, int] = httpx.get(f"{url}/fleet").json()["lost_targets"]
    return found


def test_a_wedged_engine_is_found_and_replaced_and_its_requests_go_on(url, undisturbed):
    stopped, other = targets(url)
    engine = engine_of(stopped["pid"])
    assert ask_all(url, engine.suspend) == undisturbed
    wait_for(lambda: not engine.is_running(), STALL_LIMIT_S)
    counts = wait_for(lambda: lost(url) if lost(url)["continued"] else None)
    assert (counts["given_up"], counts["continued"] > 0) == (0, True)

    def replaced() -> bool:
        pids = {target["pid"] for target in targets(url)}
        return len(pids) == 2 and stopped["pid"] not in pids and other["pid"] in pids

    wait_for(replaced, 180)


def test_a_killed_targets_requests_go_on_on_another(url, undisturbed):
    before = lost(url)
    pid = targets(url)[0]["pid"]
    engine = engine_of(pid)
    assert ask_all(url, lambda: os.kill(pid, signal.SIGKILL)) == undisturbed
    wait_for(lambda: not engine.is_running())  # it would keep its memory
    after = wait_for(lambda: lost(url) if lost(url)["continued"] > before["continued"] else None)
    assert after["given_up"] == 0
    assert after["restarted"] > before["restarted"]  # those that are not streamed


def test_a_client_cannot_take_up_what_nobody_said(url):
    body = {"model": "split", "prompt": "x", "vllm_xargs": {"dspark_resume": [1]}}
    reply = httpx.post(f"{url}/v1/completions", json=body)
    assert (reply.status_code, "dspark_resume" in reply.text) == (400, True)
