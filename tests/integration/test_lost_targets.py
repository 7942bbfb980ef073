"""Targets that hang or die under load: nothing that was begun is lost, every token is right. And
one that is merely full, which is left alone."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from loadtest.prompts import PROMPTS
from tests.integration.hooks import hanging_step, hooked
from tests.integration.served import demo_config, engine_of, fleet, serving, wait_for

pytestmark = pytest.mark.long

MAX_TOKENS = 200
NUM_REQUESTS = 8
STALL_LIMIT_S = 6
SEATS = 8  # of each of the two targets
NUM_CROWD = 6 * SEATS  # requests that are always there: two wait for every one on a seat
FULL_FOR_S = 3 * STALL_LIMIT_S


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found: Path = tmp_path_factory.mktemp("lost")
    return found


@pytest.fixture(scope="module")
def hang_file(folder: Path) -> Path:
    """Names the engine whose step is to hang (`hooks.hanging_step`)."""
    return folder / "hang"


@pytest.fixture(scope="module")
def url(folder: Path, hang_file: Path) -> Iterator[str]:
    config = demo_config(
        folder / "serve.yaml",
        models={"split": "split"},
        replicas=2,
        max_num_seqs=SEATS,
        stall_limit_s=STALL_LIMIT_S,
    )
    env = hooked("hanging_step") | {hanging_step.PATH: str(hang_file)}
    with serving(config, folder / "log", **env) as base:
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


def wait_until_replaced(url: str, gone: dict[str, Any], kept: dict[str, Any]) -> None:
    def is_replaced() -> bool:
        pids = {target["pid"] for target in targets(url)}
        return len(pids) == 2 and gone["pid"] not in pids and kept["pid"] in pids

    wait_for(is_replaced, 180)


def went_on_since(url: str, before: dict[str, int]) -> dict[str, int]:
    """What became of requests whose target was lost, once some streams continued elsewhere."""
    return dict(
        wait_for(lambda: lost(url) if lost(url)["continued"] > before["continued"] else None)
    )


def test_full_targets_whose_queues_never_end_are_left_alone(url, undisturbed):
    before, pids = lost(url), {target["pid"] for target in targets(url)}
    is_over = threading.Event()

    def client(k: int) -> list[tuple[int, tuple[str, Any]]]:
        answers = []
        while not is_over.is_set():
            i = (k + len(answers)) % NUM_REQUESTS
            answers.append((i, ask(url, i)))
        return answers

    with ThreadPoolExecutor(NUM_CROWD) as pool:
        clients = [pool.submit(client, k) for k in range(NUM_CROWD)]
        try:
            stay_full(url, pids)
        finally:
            is_over.set()
        answers = [answer for one in clients for answer in one.result()]
    assert len(answers) >= NUM_CROWD
    assert [i for i, answer in answers if answer != undisturbed[i]] == []
    assert {target["pid"] for target in targets(url)} == pids
    assert lost(url) == before


def stay_full(url: str, pids: set[int]) -> None:
    """Returns once these targets have been full, with a queue, for `FULL_FOR_S` on end.

    Counted in looks at reports: a machine that is too slow to report has shown nothing.
    """
    is_full = dict.fromkeys(pids, 0)

    def are_full_for_long() -> bool:
        for target in targets(url):
            admission = target["stats"]["admission"]
            queues = admission["running"] == SEATS and admission["waiting"] > 0
            is_full[target["pid"]] = is_full.get(target["pid"], 0) + 1 if queues else 0
        time.sleep(1.0)
        return all(is_full[pid] > FULL_FOR_S for pid in pids)

    wait_for(are_full_for_long, 300)


def test_a_wedged_engine_is_found_and_replaced_and_its_requests_go_on(url, undisturbed):
    before, (stopped, other) = lost(url), targets(url)
    engine = engine_of(stopped["pid"])
    assert ask_all(url, engine.suspend) == undisturbed
    wait_for(lambda: not engine.is_running(), STALL_LIMIT_S)
    assert went_on_since(url, before)["given_up"] == 0
    wait_until_replaced(url, stopped, other)


def test_a_step_that_hangs_is_found_and_its_requests_go_on(url, hang_file, undisturbed):
    """Unlike one that is stopped the engine's process runs, and takes requests and probes."""
    before, (hung, other) = lost(url), targets(url)
    engine = engine_of(hung["pid"])
    assert ask_all(url, lambda: hanging_step.hang(hang_file, engine.pid)) == undisturbed
    wait_for(lambda: not engine.is_running(), STALL_LIMIT_S)
    assert went_on_since(url, before)["given_up"] == 0
    wait_until_replaced(url, hung, other)


def test_a_killed_targets_requests_go_on_on_another(url, undisturbed):
    before = lost(url)
    pid = targets(url)[0]["pid"]
    engine = engine_of(pid)
    assert ask_all(url, lambda: os.kill(pid, signal.SIGKILL)) == undisturbed
    wait_for(lambda: not engine.is_running())  # it would keep its memory
    after = went_on_since(url, before)
    assert after["given_up"] == 0
    assert after["restarted"] > before["restarted"]  # those that are not streamed


def test_nobody_works_on_for_an_ingress_that_was_killed(url):
    """Its streams would keep their seats to their last token, and those behind them theirs."""
    (ingress,) = lost(url)["ingresses"]
    with ThreadPoolExecutor(NUM_CROWD) as pool:
        for i in range(NUM_CROWD):
            pool.submit(unread, url, f"{i}. {PROMPTS[i % len(PROMPTS)]}")
        wait_for(lambda: total(url, "waiting") >= SEATS)
        os.kill(ingress["pid"], signal.SIGKILL)
    wait_for(lambda: total(url, "running") + total(url, "waiting") == 0, 180)
    classes = [target["stats"]["admission"]["classes"] for target in targets(url)]
    assert sum(one["gave_up"] for by_name in classes for one in by_name.values()) > 0


def unread(url: str, prompt: str) -> None:
    body = {"model": "split", "prompt": prompt, "max_tokens": 700, "ignore_eos": True}
    with suppress(httpx.HTTPError):  # it breaks off
        httpx.post(f"{url}/v1/completions", json=body | {"stream": True}, timeout=120)


def total(url: str, what: str) -> int:
    """Of all targets' `running` or `waiting`; none is known while no ingress answers."""
    with suppress(httpx.HTTPError, ValueError):
        return sum(target["stats"]["admission"][what] for target in targets(url))
    return NUM_CROWD


def test_a_client_cannot_take_up_what_nobody_said(url):
    body = {"model": "split", "prompt": "x", "vllm_xargs": {"dspark_resume": [1]}}
    reply = httpx.post(f"{url}/v1/completions", json=body)
    assert (reply.status_code, "dspark_resume" in reply.text) == (400, True)
