"""Whatever a server does, its request has a row that says so."""

import pytest

from loadtest.conversations import Conversation
from loadtest.drive import Terms, run_closed, run_open
from tests.unit.loadtest.scripted_endpoint import CHUNKS, scripted_endpoint


def terms(**changes: object) -> Terms:
    settings: dict = {
        "model": "demo",
        "max_tokens": 16,
        "temperature": 0.0,
        "stall_s": 0.5,
        "extras": {"ignore_eos": True},
    }
    return Terms(**settings | changes)


def asking(*prompts: str) -> list[Conversation]:
    return [Conversation(f"p{i}", "chat", (prompt,)) for i, prompt in enumerate(prompts)]


@pytest.mark.parametrize(
    ("behaviour", "status", "http_status", "tokens", "error"),
    [
        ("well", "ok", 200, sum(CHUNKS), ""),
        ("busy", "refused", 429, 0, 'HTTP 429: {"error": {"message": "too many"}}'),
        ("broken", "refused", 500, 0, "HTTP 500: <html>oops"),
        ("stall", "stalled", 200, sum(CHUNKS), "no byte for 0.5 s"),
        ("mute", "stalled", 0, 0, "no byte for 0.5 s"),
        ("cut", "truncated", 200, sum(CHUNKS), "the stream ended without data: [DONE]"),
        ("garbage", "malformed", 200, 0, "not an event: "),
        ("not-json", "malformed", 200, sum(CHUNKS), "not a chunk of a chat: {'choices'"),
        ("wrong-shape", "malformed", 200, 0, 'not a chunk of a chat: {"choices": 7}'),
        ("error-inside", "malformed", 200, sum(CHUNKS), "an error in the stream: "),
        ("empty", "malformed", 200, 0, "an answer without a token"),
        ("reset", "reset", 200, sum(CHUNKS), "Client"),
    ],
)
def test_the_row_says_what_the_server_did(behaviour, status, http_status, tokens, error):
    with scripted_endpoint() as server:
        result = run_closed(server.url, terms(), asking(f"please {behaviour}"), clients=1)
    (row,) = result.rows("run")
    assert (row.status, row.http_status, row.output_tokens) == (status, http_status, tokens)
    assert row.error.startswith(error)
    assert bool(row.error) == (status != "ok")


def test_nobody_there_is_a_row_too():
    with scripted_endpoint() as server:
        url = server.url
    (row,) = run_closed(url, terms(), asking("well"), clients=1).rows("run")
    assert (row.status, row.http_status, row.output_tokens) == ("reset", 0, 0)
    assert row.error.startswith("ClientConnectorError")


def test_a_server_that_never_ends_is_left():
    with scripted_endpoint(chunks=(1,) * 100, gap_s=0.1) as server:
        limited = terms(limit_s=0.7)
        (row,) = run_closed(server.url, limited, asking("well"), clients=1).rows("run")
    assert (row.status, row.error) == ("stalled", "no end after 0.7 s")
    assert 0 < row.output_tokens < 100


def test_failures_beside_answers_lose_none():
    prompts = ["well", "busy", "cut", "well", "garbage", "stall", "well"]
    with scripted_endpoint() as server:
        result = run_closed(server.url, terms(), asking(*prompts), clients=3)
    assert [row.status for row in result.rows("run")] == [
        *("ok", "refused", "truncated", "ok", "malformed", "stalled", "ok")
    ]
    assert result.window_s <= result.wall_s


def test_a_second_turn_goes_out_with_the_first_answer():
    chat = Conversation("c", "chat", ("first well", "second well"), tools=({"type": "function"},))
    with scripted_endpoint() as server:
        rows = run_closed(server.url, terms(), [chat], clients=1).rows("run")
    assert [(row.number, row.turn, row.status) for row in rows] == [(0, 1, "ok"), (0, 2, "ok")]
    assert server.asked[1]["messages"] == [
        {"role": "user", "content": "first well"},
        {"role": "assistant", "content": "ab " * sum(CHUNKS)},
        {"role": "user", "content": "second well"},
    ]
    assert server.asked[1]["tools"] == [{"type": "function"}]


def test_a_conversation_ends_where_a_turn_fails():
    chat = Conversation("c", "chat", ("first cut", "second well"))
    with scripted_endpoint() as server:
        rows = run_closed(server.url, terms(), [chat], clients=1).rows("run")
    assert [row.status for row in rows] == ["truncated"]


def test_an_open_loop_waits_for_no_answer():
    with scripted_endpoint(ttft_s=0.5) as server:
        offsets_s = [0.0, 0.05, 0.1]
        rows = run_open(server.url, terms(stall_s=3), asking(*["well"] * 3), offsets_s).rows("run")
    assert [row.due_s for row in rows] == offsets_s
    assert all(row.sent_s >= row.due_s for row in rows)
    assert rows[-1].sent_s < rows[0].sent_s + rows[0].gap_us[0] * 1e-6
