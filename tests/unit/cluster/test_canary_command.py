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
SIDES = {"serving": ARM, "canary": ARM | {"ece": 0.02}, "speed": [1.01, 0.99, None]}


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
        return httpx.Response(200, json={"models": {m: {"canary": state} for m in self.models}})


def state(decision, why="", name="new:v2", **more):
    return {"name": name, "share": 0.05, "decision": decision, "why": why} | more


def run(server, model="demo", **options):
    said = []
    with server.client() as client:
        kept = run_canary(
            client, model, {"share": 0.05}, said.append, sleep=lambda _: None, **options
        )
    return kept, "\n".join(said)


def test_it_is_followed_to_its_promotion():
    server = Server(
        state("wait"), state("wait", "9 of 50", **SIDES), state("promote", "a", **SIDES)
    )
    kept, said = run(server)
    assert kept
    assert "wait: 9 of 50 requests have ended" not in said
    assert "wait: 9 of 50" in said
    assert "speed 1.01 [0.99, ?] of the serving one" in said
    assert not [one for one in server.asked if one.startswith("DELETE")]


def test_what_is_rolled_back_is_taken_away():
    server = Server(state("roll back", "slower", **SIDES))
    kept, said = run(server)
    assert not kept
    assert "roll back: slower" in said
    assert server.asked[-1] == "DELETE /fleet/models/demo/canary"


def test_a_trial_that_its_controller_lost_is_said():
    with pytest.raises(CanaryError, match="controller restarted"):
        run(Server(None))


def test_nobody_has_to_wait_and_the_only_model_need_not_be_named():
    server = Server(None)
    assert run(server, model=None, wait=False)[0]
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
