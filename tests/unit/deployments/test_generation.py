"""`dspark generate` against a server that is busy, broken, or answers in any order."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pytest

from deployments.generation import command
from deployments.generation.command import GenerationError, generate
from deployments.generation.prompts import Generation, Prompt, Sampling, read_prompts
from deployments.generation.served import ServedModel, answer_from
from drafters.answers import Answer, read_answers


class Server(ThreadingHTTPServer):
    """A model that says its prompt backwards; `script` holds statuses to send first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[int] = []
        self.seen: list[dict[str, Any]] = []
        self.refuse_token: int | None = None
        self.token_ids = True
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.seen.append(body)
            status = self.server.script.pop(0) if self.server.script else 200
        if self.server.refuse_token in body["prompt"]:
            status = 400
        choice: dict[str, Any] = {"index": 0, "text": "", "finish_reason": "stop"}
        if self.server.token_ids:
            choice["token_ids"] = body["prompt"][::-1]
        reply: dict[str, Any] = {"id": "1", "object": "text_completion", "choices": [choice]}
        if status != 200:
            reply = {"error": {"message": "too long", "type": "BadRequestError"}}
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


def prompts(count: int) -> list[Prompt]:
    return [
        Prompt(f"p:{i}:0", "chat", "s", (1, i), Sampling(0.7, 16, i % 2 == 1)) for i in range(count)
    ]


def ask(server: Server, count: int, **settings: Any) -> tuple[dict[str, Answer], Any]:
    got: dict[str, Answer] = {}
    model = ServedModel(server.url, "demo", concurrency=4, **settings)
    refusals = asyncio.run(
        answer_from(model, prompts(count), lambda answer: got.update({answer.id: answer}))
    )
    return got, refusals


def test_every_prompt_is_answered_with_its_own_sampling(server: Server) -> None:
    got, refusals = ask(server, 20)
    assert {a.id: a.output for a in got.values()} == {f"p:{i}:0": (i, 1) for i in range(20)}
    assert not refusals.reasons
    by_prompt = {body["prompt"][1]: body for body in server.seen}
    assert [by_prompt[i]["ignore_eos"] for i in range(4)] == [False, True, False, True]
    assert all(body["return_token_ids"] and body["max_tokens"] == 16 for body in server.seen)


def test_a_busy_server_is_asked_again(server: Server) -> None:
    server.script = [429, 503, 500, 429]
    got, _ = ask(server, 6)
    assert len(got) == 6
    assert len(server.seen) == 10


def test_a_prompt_refused_for_good_is_counted_and_left_out(server: Server) -> None:
    server.refuse_token = 3
    got, refusals = ask(server, 6)
    assert len(got) == 5
    assert refusals.reasons == Counter({str(next(iter(refusals.reasons))): 1})
    assert "too long" in str(refusals)


def test_a_server_that_stays_broken_ends_the_run(server: Server) -> None:
    server.script = [503] * 100
    with pytest.raises(ExceptionGroup) as errors:
        ask(server, 6, max_retries=2)
    assert all(isinstance(e, openai.InternalServerError) for e in errors.value.exceptions)


class CharacterTokenizer:
    """As many tokens as characters."""

    def apply_chat_template(self, messages: Any, **kwargs: Any) -> dict[str, list[int]]:
        return {"input_ids": [ord(c) for c in messages[-1]["content"]]}


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    path = tmp_path / "chat.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": f"hi {i}"}], "domain": "chat", "source": "s"}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [path]


def test_a_prompt_keeps_its_id_and_sampling_takes_turns(files: list[Path]) -> None:
    found = read_prompts(files, CharacterTokenizer(), Generation(max_prompt_tokens=4, limit=7))
    assert len(found) == 7
    for prompt in found:
        line = int(prompt.id.split(":")[1])
        assert prompt.tokens == tuple(map(ord, f"hi {line - 1}"))
        assert line <= 10  # "hi 10" is too long
    assert [(p.sampling.temperature, p.sampling.ignore_eos) for p in found[:4]] == [
        (0.0, False),
        (0.7, False),
        (0.0, True),
        (0.7, True),
    ]
    to_their_end = Generation(max_prompt_tokens=4, limit=7, past_end=False)
    found = read_prompts(files, CharacterTokenizer(), to_their_end)
    assert not any(prompt.sampling.ignore_eos for prompt in found)


def test_other_limits_ask_a_conversation_at_the_same_turn(tmp_path: Path) -> None:
    talks = [[{"role": "user", "content": f"{i} {turn}"} for turn in "abc"] for i in range(40)]
    lines = [json.dumps({"messages": talk}) + "\n" for talk in talks]
    few, more = tmp_path / "more" / "chat.jsonl", tmp_path / "chat.jsonl"
    few.parent.mkdir()
    few.write_text("".join(lines))
    more.write_text("".join([*lines, *lines[:20]]))  # shuffled otherwise
    ids = [
        {prompt.id for prompt in read_prompts([file], CharacterTokenizer(), Generation())}
        for file in (few, more)
    ]
    assert len(ids[0]) == 40
    assert ids[0] < ids[1]
    assert len({id_.split(":")[2] for id_ in ids[0]}) == 3


@pytest.fixture
def run(server: Server, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    import transformers

    monkeypatch.setattr(
        transformers.AutoTokenizer, "from_pretrained", lambda target: CharacterTokenizer()
    )
    lines: list[str] = []

    def generate_all(limit: int | None = None, **settings: Any) -> list[str]:
        model = ServedModel(server.url, "demo", concurrency=3, **settings)
        lines.clear()
        generate("target", files, tmp_path / "out", Generation(limit=limit), model, lines.append)
        return list(lines)

    return generate_all


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(
    run: Any, server: Server, tmp_path: Path
) -> None:
    server.script = [200] * 10 + [503] * 90
    with pytest.raises(GenerationError, match=r"http.*too long"):
        run(max_retries=1)
    before = [row["id"] for _, row in read_answers(tmp_path / "out")]
    assert 10 <= len(before) < 40
    server.script, asked = [], len(server.seen)
    assert run()[0] == f"{len(before)} of 40 prompts answered before"
    assert len(server.seen) - asked == 40 - len(before)
    ids = Counter(row["id"] for _, row in read_answers(tmp_path / "out"))
    assert set(ids.values()) == {1}
    assert len(ids) == 40


def test_a_server_without_token_ids_is_refused(run: Any, server: Server) -> None:
    server.token_ids = False
    with pytest.raises(GenerationError, match="return_token_ids"):
        run()


def test_a_server_that_is_not_there_is_named(run: Any, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(GenerationError, match=server.url):
        run(max_retries=0)


def test_an_engine_in_this_process_is_given_what_is_missing(
    run: Any, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(limit=15)
    asked: list[Prompt] = []
    monkeypatch.setattr(
        command, "_in_this_process", lambda target, missing, *rest: asked.extend(missing)
    )
    generate("target", files, tmp_path / "out", Generation(), None, lambda line: None)
    assert len(asked) == 25
