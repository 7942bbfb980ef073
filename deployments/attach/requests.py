"""A request on its way to an attached engine: JSON as the client sent it. No vLLM in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "embeddings": "/v1/embeddings",
    "score": "/v1/score",
    "tokenize": "/tokenize",
    "detokenize": "/detokenize",
}
"""By the ingress's name for it: where an engine is asked the same."""

_TEXTS = ("messages", "prompt", "input")
_NUMBERS = ("n", "max_tokens", "max_completion_tokens")
_OURS = "dspark"  # what of `vllm_xargs` begins with it is ours


class EngineRequest:
    """`body` for `method`, whose size reads as that of any request (`deployments.request_size`).

    `parsed` is the same as the API's types have it: numbers may come as text.
    """

    def __init__(self, method: str, body: Mapping[str, Any], parsed: Any) -> None:
        self.method = method
        self.model = body.get("model")  # as the client calls it
        self.cache_salt = body.get("cache_salt")
        self.body = {name: value for name, value in body.items() if name != "vllm_xargs"}
        others = _without_ours(body.get("vllm_xargs"))
        if others:
            self.body["vllm_xargs"] = others
        for name in _TEXTS:
            if name in body:
                setattr(self, name, body[name])
        for name in _NUMBERS:
            if hasattr(parsed, name):
                setattr(self, name, getattr(parsed, name))
        self.stream = bool(getattr(parsed, "stream", False))

    @property
    def path(self) -> str:
        return PATHS[self.method]

    def for_engine(self, model: str, *, counts_in_chunks: bool) -> dict[str, Any]:
        """What the engine is sent, for its `model`: a stream always ends with its usage, and
        where the engine can tell, every chunk says how many tokens there are by then."""
        body = self.body | {"model": model}
        if self.stream:
            asked = {"include_usage": True}
            if counts_in_chunks:
                asked["continuous_usage_stats"] = True
            body["stream_options"] = {**(body.get("stream_options") or {}), **asked}
        return body

    @property
    def wants_usage_in_chunks(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("continuous_usage_stats"))


def why_refused(method: str, body: Mapping[str, Any]) -> str | None:
    """What of a request no attached engine can be asked, and how to mend it; None where all
    can."""
    if method not in PATHS:
        return f"{method} is not passed on to attached engines; ask the engine itself"
    xargs = body.get("vllm_xargs")
    switch = xargs.get("dspark", "on") if isinstance(xargs, Mapping) else "on"
    if switch != "on":
        return (
            f"vllm_xargs: dspark: {switch!r}: this model's engine was launched by somebody else "
            "and drafts, or does not, as its own command says; remove dspark from vllm_xargs"
        )
    return None


def _without_ours(xargs: Any) -> dict[str, Any]:
    if not isinstance(xargs, Mapping):
        return {}
    return {name: value for name, value in xargs.items() if not name.startswith(_OURS)}
