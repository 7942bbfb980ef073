"""A service asked from outside: healthy, wedged behind a healthy port, refused, gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from cluster.doctor.evidence import ServiceEvidence
from cluster.doctor.service import ask_service, check_service

TARGET = {"replica_id": "t1", "placement": "split", "age_s": 0.2, "drafter": "d1"}
FLEET = {
    "models": {"plain": {"targets": [TARGET | {"placement": "off"}]}, "demo": {"targets": [TARGET]}}
}
CHUNKS = [
    {"choices": [{"text": " upon"}]},
    {"choices": [{"text": " a"}], "usage": None},
    {"choices": [], "usage": {"completion_tokens": 8}},
]


def stream(*events: dict[str, Any]) -> httpx.Response:
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return httpx.Response(200, text=text)


def asked(
    complete: Callable[[dict[str, Any]], httpx.Response],
    fleet: httpx.Response | None = None,
    needs_key: str | None = None,
    key: str | None = None,
) -> ServiceEvidence:
    def answer(request: httpx.Request) -> httpx.Response:
        if needs_key and request.headers.get("authorization") != f"Bearer {needs_key}":
            return httpx.Response(401, json={"error": {"message": "no API key"}})
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={"data": [{"id": "plain"}, {"id": "demo"}]})
        if request.url.path == "/fleet":
            return fleet or httpx.Response(200, json=FLEET)
        return complete(json.loads(request.content))

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return ask_service("http://s", key, client=client, completion_s=5.0)


def found(service: ServiceEvidence) -> list[tuple[str, str]]:
    return [(f.severity.value, f.check) for f in check_service(service) if f.severity != "fine"]


def silent(body: dict[str, Any]) -> httpx.Response:
    raise httpx.ReadTimeout("")


def test_a_model_that_drafts_is_asked_for_a_few_tokens():
    bodies = []

    def complete(body):
        bodies.append(body)
        return stream(*CHUNKS)

    service = asked(complete, needs_key="k", key="k")
    assert (service.models, service.asked_model) == (("plain", "demo"), "demo")
    assert (service.completion_tokens, service.completion_error) == (8, None)
    assert (bodies[0]["max_tokens"], bodies[0]["stream"]) == (8, True)
    assert not service.answers_without_key
    assert found(service) == []


@pytest.mark.parametrize(
    ("complete", "error"),
    [
        (silent, "nothing came within 5 s"),
        (lambda body: stream(), None),
        (lambda body: httpx.Response(500, text="engine dead"), "500: engine dead"),
        (lambda body: stream({"error": {"message": "the target was lost"}}), "the target was lost"),
    ],
)
def test_an_engine_that_is_wedged_behind_a_healthy_port(complete, error):
    service = asked(complete, needs_key="k", key="k")
    assert service.models_error is None
    assert service.completion_error == error
    assert found(service) == [("broken", "completion")]


def test_without_the_key_it_says_so():
    (finding,) = check_service(asked(silent, needs_key="k", key="other"))
    assert finding.seen.startswith("401: ")
    assert "OPENAI_API_KEY" in finding.mend


def test_a_service_that_asks_nobody_for_a_key():
    assert found(asked(lambda body: stream(*CHUNKS))) == [("warning", "API keys")]


def test_another_server_than_ours_has_no_fleet():
    service = asked(lambda body: stream(*CHUNKS), fleet=httpx.Response(404, text="Not Found"))
    assert service.asked_model == "plain"
    assert found(service) == [("warning", "fleet")]


def test_nobody_listens():
    service = ask_service("http://127.0.0.1:9")
    assert found(service) == [("broken", "service")]


def attached(down: str | None) -> dict[str, Any]:
    stats = {"engine": {"url": "http://e", "down": down}}
    return TARGET | {"placement": "attached", "drafter": None, "stats": stats}


def serving(**model: Any) -> ServiceEvidence:
    fleet = {"models": {"demo": {"targets": [TARGET]} | model}}
    return ServiceEvidence("http://s", ("demo",), None, "demo", 8, 0.5, None, fleet)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({}, []),
        ({"targets": []}, [("broken", "targets")]),
        ({"targets": [TARGET | {"age_s": 4.0}]}, [("warning", "targets")]),
        ({"targets": [TARGET | {"drafter": None}]}, [("warning", "drafters")]),
        ({"targets": [TARGET | {"drafter": None, "placement": "colocated"}]}, []),
        ({"targets": [attached(down=None)]}, []),
        ({"targets": [attached(down="no answer")]}, [("broken", "engine")]),
        ({"learned": [{"acceptance": {"collapsed": True}}]}, [("warning", "acceptance")]),
        ({"learned": [{"calibration": {}}]}, []),
    ],
)
def test_what_the_fleet_says(model, expected):
    assert found(serving(**model)) == expected
