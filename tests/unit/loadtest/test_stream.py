import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.stream import Chunk, Piece, parse_answer


def event(document: object) -> bytes:
    text = document if isinstance(document, str) else json.dumps(document)
    return f"data: {text}\n\n".encode()


def said(text: str = "ab", **choice: object) -> dict:
    return {"choices": [{"delta": {"content": text}, **choice}]}


DONE = event("[DONE]")
LAST = event({"choices": [{"delta": {}, "finish_reason": "stop"}]}) + DONE
USAGE = event({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})


def test_token_ids_count_chunks_of_several_tokens():
    pieces = [
        Piece(0.5, event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})),
        Piece(1.0, event(said("a", token_ids=[1]))),
        Piece(1.5, event(said("bcd", token_ids=[2, 3, 4]))),
        Piece(2.0, event(said("", token_ids=[5, 6], finish_reason="length")) + USAGE + DONE),
    ]
    answer = parse_answer(pieces, 200)
    assert (answer.status, answer.error, answer.counted_by) == ("ok", "", "token_ids")
    assert answer.chunks == (Chunk(1.0, 1), Chunk(1.5, 3), Chunk(2.0, 2))
    assert (answer.text, answer.prompt_tokens, answer.finish_reason) == ("abcd", 5, "length")


def test_running_usage_counts_where_there_are_no_token_ids():
    pieces = [
        Piece(1.0, event(said() | {"usage": {"completion_tokens": 2}})),
        Piece(2.0, event(said() | {"usage": {"completion_tokens": 5}}) + LAST),
    ]
    answer = parse_answer(pieces, 200)
    assert (answer.counted_by, answer.chunks) == ("usage", (Chunk(1.0, 2), Chunk(2.0, 3)))


def test_a_total_at_the_end_is_spread_over_the_chunks():
    pieces = [Piece(float(i), event(said())) for i in range(1, 4)] + [Piece(3.1, USAGE + LAST)]
    answer = parse_answer(pieces, 200)
    assert answer.counted_by == "spread"
    assert answer.chunks == (Chunk(1.0, 2), Chunk(2.0, 2), Chunk(3.0, 3))


def test_a_total_beside_the_finish_reason_is_counted_once():
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3}}
    pieces = [Piece(1.0, event(said())), Piece(2.0, event(said())), Piece(3.0, event(last) + DONE)]
    answer = parse_answer(pieces, 200)
    assert (answer.counted_by, answer.chunks) == ("spread", (Chunk(1.0, 1), Chunk(2.0, 2)))


def test_no_error_is_none():
    answer = parse_answer([Piece(1.0, event(said() | {"error": None}) + LAST)], 200)
    assert (answer.status, answer.output_tokens) == ("ok", 1)


def test_without_any_count_a_chunk_is_a_token():
    answer = parse_answer([Piece(1.0, event(said()) * 2 + LAST)], 200)
    assert (answer.counted_by, answer.output_tokens) == ("chunks", 2)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_event_counts_when_its_last_byte_arrives(size: int):
    whole = event(said("ä", token_ids=[1])) + event(said("b", token_ids=[2, 3])) + LAST
    parts = [whole[i : i + size] for i in range(0, len(whole), size)]
    answer = parse_answer([Piece(float(i), part) for i, part in enumerate(parts)], 200)
    first_end = len(event(said("ä", token_ids=[1])).rstrip()) // size
    assert (answer.status, answer.text, answer.output_tokens) == ("ok", "äb", 3)
    assert answer.chunks[0].at_s == float(first_end)


def test_comments_between_events_are_skipped():
    answer = parse_answer([Piece(1.0, b": ping\n\nevent: x\n" + event(said()) + LAST)], 200)
    assert (answer.status, answer.output_tokens) == ("ok", 1)


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (event(said()), "truncated", "the stream ended without data: [DONE]"),
        (b"", "truncated", "the stream ended without data: [DONE]"),
        (DONE, "malformed", "an answer without a token"),
        (event(said()) + DONE, "truncated", "the answer ended without a finish reason"),
        (b"<html>\n", "malformed", "not an event: <html>"),
        (event("{'a'"), "malformed", "not a chunk of a chat: {'a'"),
        (event("[1]"), "malformed", "not a chunk of a chat: [1]"),
        (event({"choices": 7}), "malformed", 'not a chunk of a chat: {"choices": 7}'),
        (event({"error": "x"}), "malformed", 'an error in the stream: {"error": "x"}'),
    ],
)
def test_what_is_no_answer_says_why(data: bytes, status: str, error: str):
    answer = parse_answer([Piece(1.0, data)], 200)
    assert (answer.status, answer.error) == (status, error)


def test_what_had_come_before_the_garbage_is_kept():
    answer = parse_answer([Piece(1.0, event(said("a", token_ids=[1, 2])) + b"\xff\n")], 200)
    assert (answer.status, answer.chunks) == ("malformed", (Chunk(1.0, 2),))


def test_a_refusal_keeps_its_status_and_its_reason():
    answer = parse_answer([Piece(1.0, b'{"error": "busy"}')], 429)
    assert (answer.status, answer.error) == ("refused", 'HTTP 429: {"error": "busy"}')


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_no_bytes_break_the_parser(parts: list[bytes]):
    answer = parse_answer([Piece(float(i), data) for i, data in enumerate(parts)], 200)
    assert answer.status != "ok" or answer.output_tokens > 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=4),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(["choices", "delta", "usage", "content", "token_ids", "error"]), x
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_breaks_the_parser(document: object):
    parse_answer([Piece(1.0, event(document) + DONE)], 200)
