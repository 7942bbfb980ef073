"""Requests beyond the limits: refused by name, by size, by time; others pass unchanged."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.denial import DENIED
from deployments.request_limits import BeyondLimitsError, BoundBodies, LimitSpec, check_limits

LIMITS = LimitSpec(max_prompt_chars=100, max_sequences=8, max_n=4, max_best_of=4, max_logprobs=5)


def chat(text: str = "hello", **fields: Any) -> SimpleNamespace:
    messages = [{"role": "user", "content": text}]
    return SimpleNamespace(messages=messages, max_tokens=8, **fields)


def completion(prompt: Any, **fields: Any) -> SimpleNamespace:
    return SimpleNamespace(prompt=prompt, max_tokens=8, **fields)


@pytest.mark.parametrize(
    "request_",
    [
        chat(n=4, logprobs=True, top_logprobs=5),
        chat("x" * 100),
        completion("x", n=None, logprobs=5, prompt_logprobs=0),
        completion([1] * 100),
        completion(["a", "b"], n=4),
        SimpleNamespace(input="x" * 100),
    ],
)
def test_what_is_within_the_limits_passes(request_):
    check_limits(LIMITS, request_)


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (chat(n=5), "n is 5; at most 4 here"),
        (completion("x", best_of=5), "best_of is 5; at most 4"),
        (chat(top_logprobs=6), "top_logprobs is 6; at most 5"),
        (completion("x", logprobs=6), "^logprobs is 6; at most 5"),
        (completion("x", prompt_logprobs=-1), "prompt_logprobs is -1: all of the vocabulary"),
        (chat("x" * 101), "prompt, in characters, is 101; at most 100"),
        (completion([1] * 101), "prompt, in token ids, is 101; at most 100"),
        (completion(["x" * 60, "y" * 60]), "in characters, is 120"),
        (completion(["a", "b", "c"], n=3), "prompts x n is 9; at most 8"),
        (SimpleNamespace(input="x" * 101), "in characters, is 101"),
    ],
)
def test_what_is_beyond_them_is_refused_by_name(request_, why):
    with pytest.raises(BeyondLimitsError, match=why):
        check_limits(LIMITS, request_)


class Client:
    """An ASGI client that sends `parts`, each after a pause, then waits."""

    def __init__(self, *parts: bytes, pause_s: float = 0.0, leaves: bool = False) -> None:
        self.parts, self.pause_s, self.leaves = list(parts), pause_s, leaves
        self.status: int | None = None
        self.body = b""

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self.pause_s)
        if not self.parts:
            return {"type": "http.disconnect"}
        body = self.parts.pop(0)
        more = bool(self.parts) or self.leaves
        return {"type": "http.request", "body": body, "more_body": more}

    async def send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)
        self.body += message.get("body", b"")


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answers with what it reads, and with what comes after that."""
    first, then = await receive(), await receive()
    assert then == {"type": "http.disconnect"}
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": first["body"]})


def ask(client: Client, method: str = "POST", length: int | None = None) -> Client:
    limits = LimitSpec(max_body_mib=10 / (1 << 20), body_timeout_s=0.2)  # ten bytes
    headers = [] if length is None else [(b"Content-Length", str(length).encode())]
    scope = {"type": "http", "method": method, "headers": headers, "path": "/v1/completions"}
    asyncio.run(BoundBodies(echo, limits)(scope, client.receive, client.send))
    return client


def test_a_body_within_the_limit_passes_in_one_piece():
    client = ask(Client(b"01234", b"56789"), length=10)
    assert (client.status, client.body) == (200, b"0123456789")


@pytest.mark.parametrize("length", [None, 10, 11])
def test_a_body_that_is_too_large_is_413_whatever_it_says_of_itself(length):
    before = DENIED["too_large"]
    client = ask(Client(b"01234", b"567890", b"and so on"), length=length)
    assert (client.status, DENIED["too_large"]) == (413, before + 1)
    assert b'"type":"BadRequestError"' in client.body
    assert len(client.parts) == (3 if length == 11 else 1)  # no more of it is read


def test_a_body_that_comes_too_slowly_is_408():
    before = DENIED["too_slow"]
    client = ask(Client(*[b"0"] * 9, pause_s=0.05))
    assert (client.status, DENIED["too_slow"]) == (408, before + 1)
    assert b"did not come within 0.2 s" in client.body


def test_a_client_that_leaves_halfway_is_neither_answered_nor_counted():
    before = DENIED.copy()
    assert ask(Client(b"01", leaves=True)).status is None
    assert before == DENIED


def test_a_request_without_a_body_is_left_alone():
    async def run() -> list[str]:
        seen = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["method"])

        for method in ("GET", "HEAD", "OPTIONS"):
            scope = {"type": "http", "method": method, "headers": []}
            await BoundBodies(app, LimitSpec())(scope, None, None)  # type: ignore[arg-type]
        return seen

    assert asyncio.run(run()) == ["GET", "HEAD", "OPTIONS"]
