import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import httpx
import pytest

from loadtest.closed_loop import Answer, Load, LoopResult, run_closed_loop


def test_what_comes_after_the_last_prompt_was_taken_does_not_count():
    """Two clients at 10 tokens/s each; the second finds no prompt after 6 s, one straggles."""
    answers = [Answer(0, 5, 50), Answer(0, 6, 60), Answer(5, 45, 80)]
    result = LoopResult(answers, full_until_s=6)
    assert result.tokens_per_s == pytest.approx((50 + 60 + 80 / 40) / 6)


def test_clients_that_end_together_count_in_full():
    result = LoopResult([Answer(0, 4, 100), Answer(0, 4, 100)], full_until_s=4)
    assert result.tokens_per_s == 50


class Endpoint(BaseHTTPRequestHandler):
    """Answers a chat with as many tokens as its prompt has characters; refuses "no"."""

    asked: ClassVar[list[dict]] = []

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        prompt = request["messages"][0]["content"]
        self.send_response(400 if prompt == "no" else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"usage": {"completion_tokens": len(prompt)}}).encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def endpoint():
    Endpoint.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_prompt_is_sent_once_and_its_tokens_counted(endpoint):
    prompts = ["a", "bb", "ccc", "dddd", "eeeee"]
    result = run_closed_loop(endpoint, "demo", Load(prompts, 16, 0.0, "salt"), concurrency=2)
    assert sorted(answer.output_tokens for answer in result.answers) == [1, 2, 3, 4, 5]
    assert sorted(request["messages"][0]["content"] for request in Endpoint.asked) == prompts
    assert all(request["cache_salt"] == "salt" for request in Endpoint.asked)
    assert result.full_until_s <= max(answer.ended_s for answer in result.answers) + 1


def test_a_refusal_is_raised(endpoint):
    with pytest.raises(httpx.HTTPStatusError):
        run_closed_loop(endpoint, "demo", Load(["no"], 16, 0.0, "salt"), concurrency=1)
