"""What an attached engine answers in one piece, or refuses: its own words, in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.openai_errors import error_kind

_EXCERPT_CHARS = 500
_OUR_KEY = (401, 403)  # the engine does not know the key that we, not the client, showed it


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    """From the replica to the ingress. Above 399 `body` is `{"error": {...}}`."""

    status: int
    body: dict[str, Any]

    @property
    def error(self) -> dict[str, Any] | None:
        """As of a refusal of vLLM's, for whoever asks whether this is one."""
        return self.body["error"] if self.status >= 400 else None


def read_answer(status: int, raw: bytes, served_as: str) -> EngineAnswer:
    """From an answer's status and bytes; where it names a model, that is called as here."""
    document = _json(raw)
    if status >= 400:
        return _refusal(status, document, raw)
    if not isinstance(document, dict):
        return _error(502, "the attached engine's answer is no JSON object")
    if "model" in document:
        document["model"] = served_as
    return EngineAnswer(status, document)


def _json(raw: bytes) -> Any:
    try:
        return json.loads(raw)
    except ValueError:
        return None


def _refusal(status: int, document: Any, raw: bytes) -> EngineAnswer:
    """vLLM nests its error, SGLang does not, FastAPI has a detail, a proxy sends a page."""
    if status in _OUR_KEY:
        return _error(
            502,
            f"the attached engine refuses our key with {status}; whoever serves this has to set "
            "attach.api_key_env",
        )
    said = document if isinstance(document, Mapping) else {}
    nested = said.get("error")
    error = nested if isinstance(nested, Mapping) else said
    message = (
        error.get("message")
        or said.get("detail")
        or nested
        or raw[:_EXCERPT_CHARS].decode(errors="replace")
    )
    body = {
        "message": message if isinstance(message, str) else json.dumps(message),
        "type": error.get("type") or error_kind(status),
        "param": error.get("param"),
        "code": error.get("code") or status,
    }
    return EngineAnswer(status, {"error": body})


def _error(status: int, message: str) -> EngineAnswer:
    error = {"message": message, "type": error_kind(status), "param": None, "code": status}
    return EngineAnswer(status, {"error": error})
