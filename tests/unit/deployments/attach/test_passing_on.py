"""The ingress passes an attached engine's words on: whole, whatever Ray knows of them."""

import asyncio

import pytest
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionResponse,
    EmbeddingResponse,
)
from ray.llm._internal.serve.core.ingress.utils import NON_STREAMING_RESPONSE_TYPES
from starlette.requests import Request

from deployments.attach.answers import EngineAnswer
from deployments.attach.passing_on import EngineRefusedError, engine_request, passed_on


def request(raw):
    async def receive():
        return {"type": "http.request", "body": raw, "more_body": False}

    headers = [(b"content-type", b"application/json")]
    return Request({"type": "http", "method": "POST", "path": "/", "headers": headers}, receive)


def test_an_answer_is_of_the_class_that_rays_ingress_looks_for_and_says_what_came():
    body = {"choices": [{"message": {"annotations": []}}], "usage": {"prompt_tokens": 3}, "odd": 1}
    answer = passed_on("chat", EngineAnswer(200, body))
    assert isinstance(answer, ChatCompletionResponse)
    assert isinstance(answer, NON_STREAMING_RESPONSE_TYPES)
    assert answer.model_dump() is body
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (3, 0)
    assert getattr(answer, "error", None) is None
    assert isinstance(passed_on("embeddings", EngineAnswer(200, {})), EmbeddingResponse)


def test_a_refusal_keeps_status_and_body():
    body = {"error": {"message": "too long", "param": "prompt"}}
    with pytest.raises(EngineRefusedError) as refused:
        passed_on("chat", EngineAnswer(422, body))
    assert (refused.value.status_code, refused.value.body) == (422, body)


def test_the_clients_own_json_goes_to_the_engine():
    raw = b'{"messages": [], "odd": {"a": null}}'
    sent = asyncio.run(engine_request("chat", request(raw), None))
    assert sent.body == {"messages": [], "odd": {"a": None}}


def test_what_cannot_be_passed_on_is_refused():
    raw = b'{"vllm_xargs": {"dspark": "off"}}'
    with pytest.raises(ValueError, match="remove dspark from vllm_xargs"):
        asyncio.run(engine_request("chat", request(raw), None))
    with pytest.raises(ValueError, match="not passed on"):
        asyncio.run(engine_request("transcriptions", request(b"--form"), None))
