"""Tokens per second of a closed loop: what came while all clients were busy."""

from __future__ import annotations

import pytest

from loadtest.client import Received
from loadtest.conversations import Conversation
from loadtest.drive import Exchange, RunResult
from loadtest.stream import Piece
from loadtest.throughput import closed_loop_tokens_per_s, tokens_per_s
from tests.unit.loadtest.scripted_endpoint import scripted_endpoint


def exchange(sent_s: float, *arrivals: tuple[float, int]) -> Exchange:
    """Sent at `sent_s`; chunks of so many tokens, so long after."""
    chunk = b'data: {"choices": [{"delta": {"content": "x"}, "token_ids": %s}]}\n\n'
    end = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    pieces = [Piece(at_s, chunk % str([7] * tokens).encode()) for at_s, tokens in arrivals]
    pieces.append(Piece(arrivals[-1][0], end))
    received = Received(sent_s, 200, tuple(pieces))
    return Exchange(0, 1, Conversation("0", "mixed", ("hi",)), sent_s, sent_s, received)


def test_tokens_behind_the_window_do_not_count():
    exchanges = (exchange(0.0, (1.0, 4), (3.0, 2)), exchange(1.5, (0.25, 3), (1.0, 8)))
    assert tokens_per_s(RunResult(exchanges, 2.0, 3.0, 0.1)) == pytest.approx((4 + 3) / 2)


def test_all_prompts_are_answered_in_full_length():
    with scripted_endpoint() as server:
        rate = closed_loop_tokens_per_s(server.url, "demo", ["a", "b"], max_tokens=10, clients=2)
    assert rate > 0
    assert [(r["max_tokens"], r["ignore_eos"]) for r in server.asked] == [(10, True)] * 2


def test_a_request_that_fails_ends_the_measurement_with_its_reason():
    with scripted_endpoint() as server, pytest.raises(RuntimeError, match="not answered"):
        closed_loop_tokens_per_s(server.url, "demo", ["please garbage"], max_tokens=4, clients=1)
