from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from deployments.callers import (
    Caller,
    Callers,
    IdentifyCallers,
    NotAllowedError,
    UnknownKeyError,
    age_s,
)
from deployments.class_specs import KeySpec

CLASSES = ("standard", "interactive", "batch")


def key(secret: str, tenant: str, *classes: str, admin: bool = False) -> KeySpec:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return KeySpec(sha256=digest, tenant=tenant, classes=classes, admin=admin)


KEYS = (key("k-acme", "acme", "interactive", "batch"), key("k-root", "root", admin=True))
OPEN = Callers(CLASSES)
CLOSED = Callers(CLASSES, KEYS)


def bearer(secret: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", **headers}


def asking(name: str) -> dict[str, str]:
    return {"x-dspark-class": name}


@pytest.mark.parametrize(
    ("callers", "headers", "caller"),
    [
        (OPEN, {}, Caller("anonymous", "standard")),
        (OPEN, asking("batch"), Caller("anonymous", "batch")),
        (OPEN, bearer("whatever"), Caller("anonymous", "standard")),
        (CLOSED, bearer("k-acme"), Caller("acme", "interactive")),
        (CLOSED, bearer("k-acme") | asking("batch"), Caller("acme", "batch")),
        (CLOSED, bearer("k-root"), Caller("root", "standard")),
        (CLOSED, bearer("k-root") | asking("interactive"), Caller("root", "interactive")),
        (CLOSED, {"authorization": "bearer k-root"}, Caller("root", "standard")),
    ],
)
def test_who_is_known(callers, headers, caller):
    assert callers.identify(headers) == caller


@pytest.mark.parametrize(
    ("callers", "headers", "error", "why"),
    [
        (OPEN, asking("gold"), ValueError, "there is no class 'gold'"),
        (CLOSED, {}, UnknownKeyError, "Authorization: Bearer"),
        (CLOSED, {"authorization": "Basic k-acme"}, UnknownKeyError, "Authorization: Bearer"),
        (CLOSED, bearer("guess"), UnknownKeyError, "not known"),
        (CLOSED, bearer("k-acme") | asking("standard"), NotAllowedError, "'standard'"),
    ],
)
def test_who_is_not(callers, headers, error, why):
    with pytest.raises(error, match=why):
        callers.identify(headers)


def test_only_admins_change_the_fleet():
    with pytest.raises(NotAllowedError, match="admin"):
        CLOSED.identify(bearer("k-acme"), changes_fleet=True)
    assert CLOSED.identify(bearer("k-root"), changes_fleet=True).tenant == "root"


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the headers that reached it."""
    body = repr(sorted((k.decode(), v.decode()) for k, v in scope["headers"])).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def ask(method: str, callers: Callers, headers: dict[str, str]) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=IdentifyCallers(app, callers))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, "/v1/chat/completions", headers=headers)

    return asyncio.run(run())


def test_what_a_client_says_of_itself_is_overwritten():
    reply = ask("POST", CLOSED, bearer("k-acme") | {"X-DSpark-Tenant": "root"})
    assert "('x-dspark-class', 'interactive'), ('x-dspark-tenant', 'acme')" in reply.text
    assert "root" not in reply.text


@pytest.mark.parametrize(
    ("method", "headers", "status", "kind"),
    [
        ("POST", {}, 401, "AuthenticationError"),
        ("PATCH", bearer("k-acme"), 403, "PermissionDeniedError"),
        ("POST", bearer("k-acme") | asking("gold"), 400, "BadRequestError"),
    ],
)
def test_refusals_have_the_shape_of_openais(method, headers, status, kind):
    reply = ask(method, CLOSED, headers)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, status, None)


@pytest.mark.parametrize(
    ("arrived", "age"),
    [("100.0", 0.25), ("99.0", 1.0), ("0.0", 1.0), ("200.0", 0.0), (None, 0.0)],
)
def test_the_age_of_a_request_is_believed_within_bounds(arrived, age):
    headers = {} if arrived is None else {"x-dspark-arrived": arrived}
    assert age_s(headers, 100.25) == age


def test_a_client_makes_itself_neither_older_nor_younger():
    reply = ask("POST", OPEN, {"x-dspark-arrived": "17"})
    assert "('x-dspark-arrived', '17')" not in reply.text
    assert reply.text.count("x-dspark-arrived") == 1


def test_preflights_carry_no_key():
    assert ask("OPTIONS", CLOSED, {}).status_code == 200
