from __future__ import annotations

import asyncio
import hashlib
import time
from typing import Any

import httpx
import pytest
from starlette.datastructures import Headers

from deployments.callers import (
    ASKING,
    Callers,
    IdentifyCallers,
    NotAllowedError,
    UnknownKeyError,
    age_s,
    machine,
)
from deployments.class_specs import KeySpec
from deployments.denial import DENIED
from deployments.key_ring import KeyRing
from deployments.metering import Accounts

CLASSES = ("standard", "interactive", "batch")


def key(secret: str, tenant: str, *classes: str, **options: Any) -> KeySpec:
    digest = hashlib.sha256(secret.encode()).hexdigest()
    return KeySpec(sha256=digest, tenant=tenant, classes=classes, **options)


KEYS = (key("k-acme", "acme", "interactive", "batch"), key("k-root", "root", admin=True))
OPEN = Callers(CLASSES, KeyRing())
CLOSED = Callers(CLASSES, KeyRing(KEYS, classes=CLASSES))


def bearer(secret: str, **headers: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}", **headers}


def asking(name: str) -> dict[str, str]:
    return {"x-dspark-class": name}


@pytest.mark.parametrize(
    ("callers", "headers", "caller"),
    [
        (OPEN, {}, ("anonymous", "standard")),
        (OPEN, asking("batch"), ("anonymous", "batch")),
        (OPEN, bearer("whatever"), ("anonymous", "standard")),
        (CLOSED, bearer("k-acme"), ("acme", "interactive")),
        (CLOSED, bearer("k-acme") | asking("batch"), ("acme", "batch")),
        (CLOSED, bearer("k-root"), ("root", "standard")),
        (CLOSED, bearer("k-root") | asking("interactive"), ("root", "interactive")),
        (CLOSED, {"authorization": "bearer k-root"}, ("root", "standard")),
    ],
)
def test_who_is_known(callers, headers, caller):
    found = callers.identify(headers)
    assert (found.tenant, found.class_name) == caller


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


def ask(
    method: str,
    callers: Callers,
    headers: dict[str, str],
    path: str = "/v1/chat/completions",
    accounts: Accounts | None = None,
    behind: Any = app,
) -> httpx.Response:
    async def run() -> httpx.Response:
        identify = IdentifyCallers(behind, callers, lambda: accounts or Accounts())
        transport = httpx.ASGITransport(app=identify)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            return await http.request(method, path, headers=headers)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("headers", "path", "why"),
    [
        ({}, "/v1/completions", {"no_key": 1}),
        (bearer("k-revoked"), "/v1/completions", {"unknown_key": 1}),
        (bearer("k-acme"), "/fleet/models/demo", {"not_allowed": 1}),
        (bearer("k-acme") | asking("standard"), "/v1/completions", {"not_allowed": 1}),
        (bearer("k-acme") | asking("gold"), "/v1/completions", {"unknown_class": 1}),
        (bearer("k-acme"), "/v1/completions", {}),
    ],
)
def test_whom_it_does_not_let_in_is_counted_by_why(headers, path, why):
    before = DENIED.copy()
    ask("POST", CLOSED, headers, path)
    assert DENIED - before == why


TOLD = {
    "X-DSpark-Unseen": "1000000",
    "X-DSpark-Elsewhere": "1",
    "X-DSpark-Refused-By": "r1",
    "X-DSpark-Waited": "0",
}


def test_what_a_client_says_of_itself_is_overwritten():
    reply = ask("POST", CLOSED, bearer("k-acme") | {"X-DSpark-Tenant": "root"} | TOLD)
    assert "('x-dspark-class', 'interactive'), ('x-dspark-tenant', 'acme')" in reply.text
    assert "root" not in reply.text
    assert not any(name.lower() in reply.text for name in TOLD)


@pytest.mark.parametrize(
    ("method", "headers", "status", "kind"),
    [
        ("POST", {}, 401, "AuthenticationError"),
        ("POST", bearer("k-acme") | asking("gold"), 400, "BadRequestError"),
    ],
)
def test_refusals_have_the_shape_of_openais(method, headers, status, kind):
    reply = ask(method, CLOSED, headers)
    assert reply.status_code == status
    error = reply.json()["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, status, None)


@pytest.mark.parametrize(
    ("arrived", "here", "age"),
    [
        ("m1 100.0", "m1", 0.25),
        ("m1 40.0", "m1", 60.25),  # a process that was stopped meanwhile: it is that old
        ("m1 200.0", "m1", 0.0),
        ("m2 40.0", "m1", 0.0),  # another machine's clock says nothing here
        (" 40.0", "", 0.0),  # nor that of machines that cannot be told apart
        (None, "m1", 0.0),
    ],
)
def test_the_age_of_a_request_is_told_by_one_clock(arrived, here, age):
    headers = {} if arrived is None else {"x-dspark-arrived": arrived}
    assert age_s(headers, 100.25, here) == age


def test_what_a_request_waited_in_the_ingress_counts_on_every_machine():
    headers = {"x-dspark-arrived": "m1 45.0", "x-dspark-waited": "55.0"}
    assert age_s(headers, 100.25, "m1") == 55.25
    assert age_s(headers, 7.0, "m2") == 55.0


def test_a_wall_clock_that_jumps_makes_no_request_older(monkeypatch):
    seen = {}

    async def app(scope, receive, send):
        seen.update(Headers(scope=scope))

    jumps = iter([0.0, 1e9, -1e9])
    monkeypatch.setattr("time.time", lambda: next(jumps))
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    asyncio.run(IdentifyCallers(app, OPEN, Accounts)(scope, None, None))
    assert 0 <= age_s(seen, time.monotonic(), machine()) < 60


def test_a_client_makes_itself_neither_older_nor_younger():
    reply = ask("POST", OPEN, {"x-dspark-arrived": "17"})
    assert "('x-dspark-arrived', '17')" not in reply.text
    assert reply.text.count("x-dspark-arrived") == 1


def test_preflights_carry_no_key():
    assert ask("OPTIONS", CLOSED, {}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PATCH", "/fleet/models/demo"),
        ("POST", "/fleet/models/demo/canary"),
        ("DELETE", "/fleet/models/demo/canary"),
        ("POST", "/prefix/fleet/models/demo/canary"),
    ],
)
def test_whatever_changes_the_fleet_takes_an_admins_key(method, path):
    reply = ask(method, CLOSED, bearer("k-acme"), path)
    assert (reply.status_code, reply.json()["error"]["type"]) == (403, "PermissionDeniedError")
    assert ask(method, CLOSED, bearer("k-root"), path).status_code == 200
    assert ask(method, OPEN, {}, path).status_code == 200


def test_everybody_with_a_key_may_look_at_the_fleet():
    assert ask("GET", CLOSED, bearer("k-acme"), "/fleet").status_code == 200
    assert ask("GET", CLOSED, {}, "/fleet").status_code == 401


def test_the_key_itself_goes_no_further():
    reply = ask("POST", CLOSED, bearer("k-acme"))
    assert "k-acme" not in reply.text
    assert "authorization" not in reply.text


def test_whom_it_is_for_is_in_the_scope():
    async def behind(scope: Any, receive: Any, send: Any) -> None:
        asking = scope[ASKING]
        said = f"{asking.caller.tenant} {asking.caller.is_admin} {asking.account.usage.requests}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": said.encode()})

    assert ask("POST", CLOSED, bearer("k-acme"), behind=behind).text == "acme False 1"
    assert ask("POST", CLOSED, bearer("k-root"), behind=behind).text == "root True 1"
    assert ask("GET", CLOSED, bearer("k-root"), behind=behind).text == "root True 0"
    assert ask("POST", OPEN, {}, behind=behind).text == "anonymous True 1"


def test_who_is_over_quota_is_told_when_to_come_back():
    keys = KeyRing((key("k-few", "few", requests_per_minute=2), *KEYS))
    callers, accounts = Callers(CLASSES, keys), Accounts(clock=lambda: 100.0)
    statuses = [
        ask("POST", callers, bearer("k-few"), accounts=accounts).status_code for _ in range(2)
    ]
    assert statuses == [200, 200]
    before = DENIED["over_quota"]
    refused = ask("POST", callers, bearer("k-few"), accounts=accounts)
    assert DENIED["over_quota"] == before + 1
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "30")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("RateLimitError", 429)
    assert ask("GET", callers, bearer("k-few"), "/v1/usage", accounts).status_code == 200
    assert ask("POST", callers, bearer("k-acme"), accounts=accounts).status_code == 200
