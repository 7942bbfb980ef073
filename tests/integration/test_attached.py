"""Engines that somebody else launched behind our ingress: a real `vllm serve`, and two scripted
engines that fail as they are told."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from cluster.status import status_text
from loadtest.peers import peer_server
from loadtest.servers import running
from tests.integration.demo import DEMO_TARGET
from tests.integration.served import fleet, free_port, serving, wait_for
from tests.unit.deployments.attach.scripted_engine import (
    TOKENS,
    VLLM_METRICS,
    ScriptedEngine,
    scripted_engine,
)

pytestmark = pytest.mark.long
ASKED = {"messages": [{"role": "user", "content": "What is 12 times 7?"}], "temperature": 0}
PROMISES = [{"name": "any"}]


class Scripted:
    """A scripted engine in a thread of its own, which can be taken away and brought back."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self._context: Any = None
        self.port = free_port()
        self.start()

    def start(self) -> None:
        self._context = scripted_engine(self.port)
        self.engine: ScriptedEngine = self._do(self._context.__aenter__())

    def stop(self) -> None:
        self._do(self._context.__aexit__(None, None, None))

    def _do(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


class Served(NamedTuple):
    url: str
    engine_url: str
    engine_pid: int
    scripted: tuple[Scripted, Scripted]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("attached")
    scripted = Scripted(), Scripted()
    scripted[1].engine.metrics = None
    with (
        peer_server("vllm", DEMO_TARGET | {"threads": 1}, free_port()) as server,
        running(server, directory / "vllm.log") as up,
    ):
        assert up.pid is not None
        seats = DEMO_TARGET["max_num_seqs"]
        demo = {"url": server.url, "model": "vllm", "max_num_seqs": seats, "stall_limit_s": 15}
        pair = {
            "url": [one.engine.url for one in scripted],
            "model": "theirs",
            "max_num_seqs": 2,
            "max_queued_requests": 1,
            "stall_limit_s": 4,
        }
        models = [{"id": "demo", "attach": demo}, {"id": "pair", "attach": pair}]
        config = serve_file(directory, models)
        with serving(config, directory / "serve.log") as url:
            yield Served(url, server.url, up.pid, scripted)


def serve_file(directory: Path, models: list[dict[str, Any]]) -> Path:
    application = {
        "name": "test",
        "route_prefix": "/",
        "import_path": "deployments.app:build_app",
        "args": {"models": models},
    }
    path = directory / "serve.yaml"
    path.write_text(yaml.safe_dump({"applications": [application]}))
    return path


def chat(url: str, model: str, **more: Any) -> httpx.Response:
    body = {"model": model, "max_tokens": 24, "ignore_eos": True} | ASKED | more
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)


def pair(url: str, prompt: str, **more: Any) -> httpx.Response:
    body = {"model": "pair", "prompt": prompt, "max_tokens": 4} | more
    return httpx.post(f"{url}/v1/completions", json=body, timeout=60)


def streamed(url: str, model: str, **more: Any) -> list[dict[str, Any]]:
    reply = chat(url, model, stream=True, **more)
    *events, done = reply.text.strip().split("\n\n")
    assert done == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def text_of(chunks: list[dict[str, Any]]) -> str:
    deltas = (choice["delta"] for chunk in chunks for choice in chunk["choices"])
    return "".join(delta.get("content") or "" for delta in deltas)


def engine_says(served: Served, series: str) -> float:
    lines = httpx.get(f"{served.engine_url}/metrics").text.splitlines()
    (line,) = (line for line in lines if line.startswith(f"{series}{{"))
    return float(line.split()[-1])


def test_answers_are_the_engines_own_in_one_piece_and_streamed(served: Served):
    own = chat(served.engine_url, "vllm").json()
    ours = chat(served.url, "demo").json()
    assert ours["choices"] == own["choices"]
    assert (ours["model"], ours["usage"]) == ("demo", own["usage"])
    chunks = streamed(served.url, "demo")
    assert text_of(chunks) == own["choices"][0]["message"]["content"]
    assert len(chunks) > 12  # not at once: an engine may say two tokens together
    assert not any(chunk.get("usage") or "token_ids" in str(chunk) for chunk in chunks)


def test_usage_is_shown_to_who_asks_and_charged_to_everybody(served: Served):
    def used() -> int:
        return int(httpx.get(f"{served.url}/v1/usage").json()["output_tokens"])

    before = used()
    *_, last = streamed(served.url, "demo", stream_options={"include_usage": True})
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 24)
    streamed(served.url, "demo")
    assert used() - before == 48


def test_fields_of_the_engines_own_pass(served: Served):
    ids = chat(served.url, "demo", return_token_ids=True).json()["choices"][0]["token_ids"]
    assert len(ids) == 24
    own = httpx.post(f"{served.engine_url}/tokenize", json={"model": "vllm", "prompt": "a b"})
    ours = httpx.post(f"{served.url}/tokenize", json={"model": "demo", "prompt": "a b"})
    assert ours.json() == own.json()


def test_refusals_are_the_engines_own_with_their_status(served: Served):
    too_long = {"messages": [{"role": "user", "content": "a b c " * 2000}]}
    for wrong in ({"temperature": -1}, too_long, {"n": 2}):
        for stream in (False, True):
            own = chat(served.engine_url, "vllm", stream=stream, **wrong)
            ours = chat(served.url, "demo", stream=stream, **wrong)
            assert (ours.status_code, ours.json()["error"]["message"]) == (
                own.status_code,
                own.json()["error"]["message"],
            )
            assert ours.status_code == 400


def test_what_an_attached_engine_cannot_do_is_refused_with_the_mend(served: Served):
    def said(reply: httpx.Response) -> str:
        assert reply.status_code == 400
        return str(reply.json()["error"]["message"])

    off = chat(served.url, "demo", vllm_xargs={"dspark": "off"})
    assert "remove dspark from vllm_xargs" in said(off)
    change = httpx.patch(f"{served.url}/fleet/models/demo", json={"speculation": "off"})
    assert "with target instead of attach" in said(change)
    canary = httpx.post(f"{served.url}/fleet/models/demo/canary", json={"drafter": "x"})
    assert "with target instead of attach" in said(canary)


def test_the_fleet_sees_what_the_engine_tells(served: Served):
    streamed(served.url, "demo")
    told = engine_says(served, "vllm:generation_tokens_total")
    (target,) = wait_for(
        lambda: [
            one
            for one in fleet(served.url, "demo")["targets"]
            if one["stats"].get("committed_tokens", 0) >= told
        ]
    )
    engine = target["stats"]["engine"]
    assert (target["placement"], engine["kind"], engine["down"]) == ("attached", "vllm", None)
    assert engine["no_metrics"] is None
    assert engine["kv_tokens"] > 0
    assert target["load"]["seats"] == DEMO_TARGET["max_num_seqs"]
    one, two = sorted(
        fleet(served.url, "pair")["targets"], key=lambda t: not t["stats"]["engine"]["kind"]
    )
    assert one["stats"]["accepted_tokens"] == 60
    assert "--enable-metrics" in two["stats"]["engine"]["no_metrics"]
    page = status_text(httpx.get(f"{served.url}/fleet").json())
    assert "tells no load" in page


def test_a_client_that_leaves_frees_the_engine(served: Served):
    body = {"model": "demo", "max_tokens": 900, "stream": True, "ignore_eos": True} | ASKED
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body) as reply:
        lines = reply.iter_lines()
        for _ in range(8):
            next(lines)
        assert engine_says(served, "vllm:num_requests_running") == 1
    wait_for(lambda: engine_says(served, "vllm:num_requests_running") == 0, 5)
    assert engine_says(served, "vllm:generation_tokens_total") < 2000


def test_every_engine_of_a_model_has_a_replica_and_gets_requests(served: Served):
    engines = [one.engine for one in served.scripted]
    urls = {one["stats"]["engine"]["url"] for one in fleet(served.url, "pair")["targets"]}
    assert urls == {engine.url for engine in engines}
    for _ in range(24):
        assert pair(served.url, "hi").json()["choices"][0]["message"]["content"] == "".join(TOKENS)
    assert all(any(body["prompt"] == "hi" for _, body in engine.asked) for engine in engines)


def test_beyond_seats_and_queues_clients_are_told_when_to_come_back(served: Served):
    with open_streams(served.url, 6):
        wait_for(lambda: fleet(served.url, "pair")["load"]["waiting"] == 2, 10)
        refused = pair(served.url, "hi")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        running = [one.engine for one in served.scripted]
        assert all(sum(body["prompt"] == "endless" for _, body in e.asked) == 2 for e in running)
    wait_for(lambda: pair(served.url, "hi").status_code == 200, 10)


@contextmanager
def open_streams(url: str, count: int) -> Iterator[None]:
    """So many answers without an end, two of them waiting."""
    body = {"model": "pair", "prompt": "endless", "stream": True}
    leave = threading.Event()

    def listen() -> None:
        with (
            httpx.Client(timeout=60) as http,
            http.stream("POST", f"{url}/v1/completions", json=body) as reply,
        ):
            for _ in reply.iter_raw():
                if leave.is_set():
                    return

    threads = [threading.Thread(target=listen) for _ in range(count)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    try:
        yield
    finally:
        leave.set()
        for thread in threads:
            thread.join(30)


def test_an_engine_that_is_gone_is_left_out_until_it_is_back(served: Served):
    def down() -> list[str]:
        engines = [one["stats"]["engine"] for one in fleet(served.url, "pair")["targets"]]
        return [engine["url"] for engine in engines if engine["down"]]

    first, second = served.scripted
    first.stop()
    assert {pair(served.url, "hi").status_code for _ in range(8)} == {200}
    wait_for(lambda: down() == [first.engine.url], 10)
    second.stop()
    wait_for(lambda: pair(served.url, "hi").status_code == 503, 10)
    refused = pair(served.url, "hi")
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert "gives no answer now" in refused.json()["error"]["message"]
    first.start()
    wait_for(lambda: pair(served.url, "hi").status_code == 200, 10)
    second.start()
    wait_for(lambda: not down(), 10)
    first.engine.metrics = VLLM_METRICS


def test_an_engine_that_hangs_gives_its_requests_to_another(served: Served):
    first, second = (one.engine for one in served.scripted)
    first.hangs = True
    replies = [pair(served.url, "hi").status_code for _ in range(6)]
    assert set(replies) == {200}  # after `stall_limit_s` from the other engine
    first.hangs = False
    assert any(body["prompt"] == "hi" for _, body in second.asked)


def test_a_stream_whose_engine_dies_says_so_and_the_engine_is_down(served: Served):
    body = {"model": "demo", "max_tokens": 900, "stream": True, "ignore_eos": True} | ASKED
    with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, timeout=60) as reply:
        lines = reply.iter_lines()
        heard = [next(lines) for _ in range(8)]
        os.killpg(served.engine_pid, signal.SIGKILL)
        heard += lines
    *_, error, done = [line for line in heard if line]
    assert "was not made to take streams up" in error
    assert done == "data: [DONE]"
    wait_for(lambda: chat(served.url, "demo").status_code == 503, 10)
    (target,) = wait_for(
        lambda: [t for t in fleet(served.url, "demo")["targets"] if t["stats"]["engine"]["down"]]
    )
    assert target["stats"]["engine"]["outages"] == 1


def test_an_endpoint_that_serves_another_model_is_refused_at_start(tmp_path: Path):
    other = Scripted()
    config = serve_file(tmp_path, [{"id": "demo", "attach": other.engine.url}])
    command = ["--config", str(config), "--port", str(free_port())]
    ended = subprocess.run(
        ["dspark", "serve", *command], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 1
    assert "serves theirs, not demo; name one of them in attach.model" in ended.stdout
    other.stop()
