"""The ingress's side of an attached engine: requests out as they came, answers as they come.

Ray's ingress tells answers by their class and writes them out as their class has it: fields that
it does not know get lost, unknown values are refused. What an attached engine says is kept.
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

from fastapi import HTTPException, Request
from pydantic import BaseModel
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionResponse,
    CompletionResponse,
    DetokenizeResponse,
    EmbeddingResponse,
    ScoreResponse,
    TokenizeResponse,
)

from deployments.attach.answers import EngineAnswer
from deployments.attach.requests import EngineRequest, why_refused

_CLASSES: dict[str, type[BaseModel]] = {
    "chat": ChatCompletionResponse,
    "completions": CompletionResponse,
    "embeddings": EmbeddingResponse,
    "score": ScoreResponse,
    "tokenize": TokenizeResponse,
    "detokenize": DetokenizeResponse,
}


class EngineRefusedError(HTTPException):
    """What the engine said no with, and its status."""

    def __init__(self, answer: EngineAnswer) -> None:
        super().__init__(answer.status, str((answer.error or {}).get("message")))
        self.body = answer.body


async def engine_request(method: str, request: Request, parsed: Any) -> EngineRequest:
    """The client's own JSON, for the engine. Raises ValueError for what it cannot be asked."""
    if method == "transcriptions":  # no JSON
        body: Any = {}
    else:
        body = await request.json()
    refusal = why_refused(method, body)
    if refusal is not None:
        raise ValueError(refusal)
    return EngineRequest(method, body, parsed)


def passed_on(method: str, answer: EngineAnswer) -> Any:
    """`answer` as Ray's ingress takes it. Raises EngineRefusedError where it is a refusal."""
    if answer.error is not None:
        raise EngineRefusedError(answer)
    return _as_it_came(_CLASSES[method])(answer.body)


@cache
def _as_it_came(kind: type[BaseModel]) -> Any:
    """A `kind` for the ingress, whose instances are JSON that somebody else has made."""

    class AsItCame(kind):  # type: ignore[misc, valid-type]
        def __init__(self, body: dict[str, Any]) -> None:
            said = body.get("usage") or {}
            counts = {name: said.get(name) or 0 for name in ("prompt_tokens", "completion_tokens")}
            self.__dict__.update(body=body, usage=SimpleNamespace(**counts))

        def model_dump(self, *_: Any, **__: Any) -> Any:
            return self.__dict__["body"]

    return AsItCame
