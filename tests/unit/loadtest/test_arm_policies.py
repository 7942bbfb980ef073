"""Policies of the command line: whose they are, and what they ask of a model that serves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

from autoscale.controls import Controls
from loadtest.arms import Arm, switch_to
from loadtest.policies import LOCAL, PolicyChoice, controls_of, parse_policy

MODELS = [{"id": "off", "placement": "off"}, {"id": "dspark"}, {"id": "mtp"}, {"id": "split"}]


def test_a_model_that_is_named_has_its_own_policies_and_the_others_have_the_rest():
    choice = PolicyChoice.parse(["causal", "mtp=fixed:1", "dspark=fixed:3,local", "fixed:7"])
    assert [arm.name for arm in Arm.of_models(MODELS, choice)] == [
        *("off", "dspark fixed 3", "dspark local", "mtp fixed 1"),
        *("split causal", "split fixed 7"),
    ]


def test_a_model_that_is_named_twice_is_refused():
    with pytest.raises(ValueError, match="names mtp twice"):
        PolicyChoice.parse(["mtp=fixed:1", "mtp=causal"])


@pytest.mark.parametrize(
    "text", ["causal", "lookahead", "local", "off", "fixed:3", "threshold:0.3"]
)
def test_every_policy_is_one_that_a_model_can_be_changed_to(text):
    asked = controls_of(parse_policy(text))
    assert Controls().changed(asked).policy == asked["policy"]


def test_local_is_causal_without_a_plan_and_every_other_policy_has_one_again():
    assert controls_of(LOCAL) == {"policy": {"kind": "causal"}, "plan": False}
    assert controls_of({"kind": "causal"}) == {"policy": {"kind": "causal"}, "plan": None}


class Fleet(HTTPServer):
    """One target, which takes a change up when it is asked for the third time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.controls: dict = {}
        self.num_asked = 0

    @property
    def stats(self) -> dict:
        if self.num_asked < 3:
            return {"policy": {"kind": "causal"}, "controls": {}}
        known = {key: value for key, value in self.controls.items() if value is not None}
        return {"policy": self.controls["policy"], "controls": known}


class _Handler(BaseHTTPRequestHandler):
    server: Fleet

    def do_PATCH(self):
        self.server.controls = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._answer({})

    def do_GET(self):
        self.server.num_asked += 1
        self._answer({"models": {"m": {"targets": [{"stats": self.server.stats}]}}})

    def _answer(self, document: dict) -> None:
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def fleet() -> Iterator[Fleet]:
    server = Fleet()
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("policy", [LOCAL, {"kind": "fixed", "k": 3}])
def test_an_arm_begins_when_its_target_goes_by_all_that_it_asks(policy):
    """The plan too: by its policy alone the target would seem to be there at once."""
    with fleet() as server:
        switch_to(f"http://127.0.0.1:{server.server_port}", Arm("m", policy), {})
    assert server.controls == controls_of(policy)
    assert server.num_asked == 3
