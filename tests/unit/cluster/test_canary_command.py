"""`dspark canary` against a server: what it asks, says and returns."""

from __future__ import annotations

import httpx
import pytest

from cluster.canary_command import CanaryError, run_canary, stop_canary
from cluster.commands import share

ARM = {
    "requests": 60,
    "steps": 900,
    "acceptance_length": [2.1, 2.0, 2.2],
    "wait_ms": [4.0, 3.9, 4.1],
    "answered": 0.99,
    "ece": None,
}
SIDES = {"serving": ARM, "canary": ARM | {"ece": [0.02, 0.0, 0.045]}, "speed": [1.01, 0.99, None]}


class Server:
    """Answers `GET /fleet` with one state after another, the last one again and again."""

    def __init__(self, *states, models=("demo",)):
        self.states = list(states)
        self.models = models
        self.asked = []

    def client(self):
        transport = httpx.MockTransport(self.answer)
        return httpx.Client(base_url="http://fleet", transport=transport)

    def answer(self, request):
        self.asked.append(f"{request.method} {request.url.path}")
        if request.method == "POST":
            return httpx.Response(200, json={"canary": {"name": "new:v2"}})
        if request.method == "DELETE":
            return httpx.Response(200, json={})
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        if isinstance(state, httpx.Response):
            return state
        return httpx.Response(200, json={"models": {m: {"canary": state} for m in self.models}})


def state(decision, why="", name="new:v2", **more):
    return {"name": name, "share": 0.05, "decision": decision, "why": why} | more


ASKED = {"share": 0.05, "patience_s": 600.0}


def run(server, clock, model="demo", **options):
    said = []

    def sleep(seconds):
        clock.now += seconds

    with server.client() as client:
        kept = run_canary(client, model, ASKED, said.append, sleep=sleep, clock=clock, **options)
    return kept, "\n".join(said)


def test_it_is_followed_to_its_promotion(clock):
    waits = [state("wait", "9 of 50", **SIDES)] * 2
    server = Server(state("wait"), *waits, state("promote", "a", **SIDES))
    kept, said = run(server, clock)
    assert kept
    assert said.count("wait: 9 of 50") == 1
    assert "canary new:v2: promote: a\nspeed 1.01 [0.99, ?] of the serving one" in said
    assert "2.00 [0.00, 4.50]" in said
    assert not [one for one in server.asked if one.startswith("DELETE")]


def test_what_is_rolled_back_is_said_with_its_reason_and_left_to_the_server(clock):
    server = Server(state("roll back", "slower", **SIDES))
    kept, said = run(server, clock)
    assert not kept
    assert "canary new:v2: roll back: slower" in said
    assert server.asked[-1] == "GET /fleet"


def test_what_never_counted_anything_is_said_with_its_reason_too(clock):
    kept, said = run(Server(state("roll back", "its replicas crash")), clock)
    assert not kept
    assert "canary new:v2: roll back: its replicas crash\nnothing counted" in said


def test_a_trial_that_its_controller_lost_is_said(clock):
    with pytest.raises(CanaryError, match="controller restarted"):
        run(Server(None), clock)


GONE = httpx.Response(503, json={"error": {"message": "the fleet controller does not answer"}})
NOBODY = httpx.Response(200, json={"models": {}})
PROXY = httpx.Response(502, text="<html>")


def test_a_controller_that_restarts_is_waited_for(clock):
    server = Server(state("wait"), GONE, PROXY, NOBODY, state("promote", **SIDES))
    assert run(server, clock)[0]
    with pytest.raises(CanaryError, match="controller restarted"):
        run(Server(state("wait"), GONE, NOBODY, None), clock)


@pytest.mark.parametrize(
    ("answer", "said"), [(GONE, "does not answer"), (NOBODY, "no replica"), (PROXY, "502")]
)
def test_one_that_does_not_come_back_is_given_up(clock, answer, said):
    with pytest.raises(CanaryError, match=said):
        run(Server(state("wait"), answer), clock)


def test_nobody_waits_for_ever(clock):
    with pytest.raises(CanaryError, match="still undecided"):
        run(Server(state("wait", "9 of 50", **SIDES)), clock)


def test_nobody_has_to_wait_and_the_only_model_need_not_be_named(clock):
    server = Server(None)
    assert run(server, clock, model=None, wait=False)[0]
    assert server.asked == ["GET /fleet", "POST /fleet/models/demo/canary"]


def test_of_several_models_one_has_to_be_named():
    with pytest.raises(CanaryError, match="a, b"), Server(None, models=("b", "a")).client() as c:
        stop_canary(c, None)


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.2", 0.2), ("100%", 1.0)])
def test_a_share_is_a_percentage_or_a_number(text, value):
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["0", "-5%", "101%", "much"])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        share(text)
