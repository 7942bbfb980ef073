from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from autoscale.fair_queue import Flow
from autoscale.pool_view import Refused
from deployments.refusal import REFUSED, RefuseWhenFull, TryLater


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


def ask(method: str, path: str, class_name: str, tenant: str = "t") -> httpx.Response:
    """All targets are full for `soon` of tenant t."""

    def refuse(asker: Flow, now_s: float) -> Refused | None:
        refusals = {
            Flow("soon", "t"): Refused(2.3, "too_late"),
            Flow("dead", "t"): Refused(1.2, "engine_down"),
        }
        return refusals.get(asker)

    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=RefuseWhenFull(app, refuse))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            headers = {"x-dspark-class": class_name, "x-dspark-tenant": tenant}
            return await http.request(method, path, headers=headers)

    return asyncio.run(run())


def test_where_all_are_full_a_request_is_refused_unread_and_counted():
    before = REFUSED["known_full"]
    reply = ask("POST", "/v1/chat/completions", "soon")
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "3")
    assert reply.json()["error"]["type"] == "RateLimitError"
    assert reply.json()["error"]["message"].endswith("Try again in 3 s.")
    assert REFUSED["known_full"] == before + 1


def test_where_all_are_full_for_one_tenant_another_goes_on():
    assert ask("POST", "/v1/chat/completions", "soon", "u").text == "answered"


def test_where_all_engines_are_gone_it_is_a_503():
    reply = ask("POST", "/v1/chat/completions", "dead")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert "gives no answer now" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "class_name"),
    [
        ("POST", "/v1/chat/completions", "batch"),
        ("GET", "/v1/models", "soon"),
        ("POST", "/tokenize", "soon"),
        ("PATCH", "/fleet/models/demo", "soon"),
    ],
)
def test_everything_else_goes_on(method, path, class_name):
    assert ask(method, path, class_name).text == "answered"


def test_a_refusal_says_why():
    assert "the queue is full" in TryLater("queue_full", 1).message
    assert "first token later" in TryLater("too_late", 1).message
