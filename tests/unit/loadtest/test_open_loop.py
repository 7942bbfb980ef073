"""The open loop against a server that streams, refuses, or breaks off, by the prompt it gets."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from loadtest.open_loop import run_open_loop
from loadtest.phases import Request


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = body["messages"][0]["content"]
        self.server.seen.append((asked, self.headers.get("x-dspark-class")))  # type: ignore[attr-defined]
        if asked == "refuse":
            self.send_response(429)
            self.send_header("retry-after", "7")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        if asked == "slow":
            time.sleep(0.3)
        for _ in range(3):
            self._event({"choices": [{"delta": {"content": "word"}}]})
        if asked == "break":
            return
        self._event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        self._event({"choices": [], "usage": {"completion_tokens": 5}})
        self.wfile.write(b"data: [DONE]\n\n")

    def _event(self, what: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps(what, separators=(",", ":")).encode() + b"\n\n")

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        one.seen = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def run(server: ThreadingHTTPServer, *requests: Request) -> list[Any]:
    return run_open_loop(
        f"http://127.0.0.1:{server.server_port}", "model", requests, cache_salt="salt"
    )


def test_every_request_has_an_outcome_in_the_order_of_requests(server):
    kinds = ("fine", "refuse", "break", "fine")
    outcomes = run(server, *(Request(0.0, kind, 8) for kind in kinds))
    assert [one.request.prompt for one in outcomes] == list(kinds)
    assert [one.status for one in outcomes] == [200, 429, 0, 200]
    assert [one.is_answered for one in outcomes] == [True, False, False, True]
    assert outcomes[1].retry_after_s == 7.0
    assert outcomes[0].output_tokens == 5
    assert all(0.0 <= one.sent_s <= one.ended_s for one in outcomes)


def test_the_first_token_is_the_first_text(server):
    (slow,) = run(server, Request(0.0, "slow", 8))
    assert slow.ttft_s >= 0.3
    assert slow.tpot_s == pytest.approx((slow.ended_s - slow.first_token_s) / 4)


def test_nobody_waits_for_anybody(server):
    outcomes = run(server, Request(0.0, "slow", 8), Request(0.1, "fine", 8))
    assert outcomes[1].ended_s < outcomes[0].ended_s
    assert outcomes[1].first_token_s >= 0.1


def test_the_class_is_asked_for_in_a_header(server):
    run(server, Request(0.0, "fine", 8, "interactive"))
    run(server, Request(0.0, "fine", 8))
    assert server.seen == [("fine", "interactive"), ("fine", None)]


def test_a_server_that_is_not_there_fails_requests_not_the_run():
    (outcome,) = run_open_loop("http://127.0.0.1:9", "m", [Request(0.0, "x", 1)], cache_salt="s")
    assert outcome.status == 0
