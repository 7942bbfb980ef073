"""What goes to an attached engine and what comes back: the client's words, and the engine's."""

import json
from types import SimpleNamespace

import pytest

from deployments.attach.answers import EngineAnswer, read_answer
from deployments.attach.requests import EngineRequest, why_refused
from deployments.request_size import RequestSize, cache_space, request_size, request_text
from tests.unit.deployments.attach.scripted_engine import request_for


def refusal(status, document):
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    answer = read_answer(status, raw, "m")
    error = answer.error
    return answer.status, error["message"], error["type"], error["param"], error["code"]


def test_a_request_goes_as_it_came_but_for_the_models_name():
    request = request_for("chat", {"model": "m", "messages": [], "top_k": 3, "odd": {"a": None}})
    sent = request.for_engine("theirs", counts_in_chunks=True)
    assert sent == {"model": "theirs", "messages": [], "top_k": 3, "odd": {"a": None}}
    assert (request.model, request.path) == ("m", "/v1/chat/completions")


@pytest.mark.parametrize(
    ("options", "counts", "sent"),
    [
        (None, False, {"include_usage": True}),
        (None, True, {"include_usage": True, "continuous_usage_stats": True}),
        ({"include_usage": False, "odd": 1}, False, {"include_usage": True, "odd": 1}),
    ],
)
def test_a_stream_is_always_asked_for_its_usage(options, counts, sent):
    request = request_for("completions", {"prompt": "x", "stream": 1, "stream_options": options})
    body = request.for_engine("theirs", counts_in_chunks=counts)
    assert body["stream_options"] == sent


@pytest.mark.parametrize(
    ("xargs", "sent"),
    [
        ({"dspark": "on", "dspark_capture": "off"}, {}),
        ({"dspark": "on", "theirs": 1}, {"vllm_xargs": {"theirs": 1}}),
        (None, {}),
    ],
)
def test_what_is_ours_in_it_does_not_reach_the_engine(xargs, sent):
    request = request_for("completions", {"vllm_xargs": xargs})
    assert request.for_engine("t", counts_in_chunks=False) == {"model": "t"} | sent


def test_its_size_reads_as_that_of_any_request():
    chat = {"messages": [{"role": "user", "content": "abcd"}], "n": 2, "max_completion_tokens": 9}
    assert request_size(request_for("chat", chat)) == RequestSize(4, 0, 2, 9)
    assert request_text(request_for("chat", chat)) == "user:abcd"
    completion = request_for("completions", {"prompt": [1, 2, 3]})
    assert request_size(completion) == RequestSize(0, 3, 1, None)
    embedding = request_for("embeddings", {"input": ["ab", "c"]})
    assert request_size(embedding) == RequestSize(3, 0, 2, 0)
    salted = request_for("completions", {"prompt": "a", "model": "m:french", "cache_salt": "s"})
    assert cache_space(salted) == "french:s"


def test_numbers_are_those_that_the_apis_types_made_of_them():
    parsed = SimpleNamespace(stream=False, n=2, max_tokens=8)
    body = {"prompt": "ab", "stream": "false", "n": "2", "max_tokens": "8"}
    request = EngineRequest("completions", body, parsed)
    assert request_size(request) == RequestSize(2, 0, 2, 8)
    assert request.for_engine("t", counts_in_chunks=True) == {"model": "t"} | body


@pytest.mark.parametrize(
    ("method", "body", "said"),
    [
        ("chat", {"vllm_xargs": {"dspark": "off"}}, "remove dspark from vllm_xargs"),
        ("transcriptions", {}, "not passed on to attached engines"),
        ("chat", {"vllm_xargs": {"dspark": "on"}}, None),
        ("chat", {"vllm_xargs": 7}, None),
        ("tokenize", {"prompt": "x"}, None),
    ],
)
def test_what_an_attached_engine_cannot_be_asked_is_refused(method, body, said):
    refused = why_refused(method, body)
    assert refused is None if said is None else said in refused


def test_an_answer_is_kept_whole_under_our_name_for_the_model():
    raw = b'{"model": "theirs", "choices": [{"theirs": 1}], "more": [null]}'
    kept = {"model": "m", "choices": [{"theirs": 1}], "more": [None]}
    assert read_answer(200, raw, "m") == EngineAnswer(200, kept)
    assert read_answer(200, b'{"tokens": [1]}', "m").body == {"tokens": [1]}


def test_errors_keep_their_status_and_words_whoever_wrote_them():
    vllm = {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}
    assert refusal(400, {"error": vllm}) == (400, "too long", "BadRequestError", "prompt", 400)
    sglang = {"object": "error", "message": "too long", "type": "BadRequest", "code": 422}
    assert refusal(422, sglang) == (422, "too long", "BadRequest", None, 422)
    assert refusal(404, {"detail": "Not Found"}) == (404, "Not Found", "NotFoundError", None, 404)
    assert refusal(400, {"detail": [{"loc": 1}]})[1] == '[{"loc": 1}]'
    page = b"<html>bad gateway</html>"
    assert refusal(502, page) == (502, page.decode(), "InternalServerError", None, 502)


@pytest.mark.parametrize("status", [401, 403])
def test_that_our_key_is_wrong_is_not_the_clients_fault(status):
    told, message, *_ = refusal(status, {"error": "Unauthorized"})
    assert told == 502
    assert "attach.api_key_env" in message


@pytest.mark.parametrize("raw", [b"", b"[1]", b"<html>"])
def test_an_answer_that_is_none_is_a_bad_gateway(raw):
    assert refusal(200, raw)[0] == 502
