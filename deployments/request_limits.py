"""What a request may ask for at most, whatever a target would do with it.

Refused at the ingress, before a target is asked: a body that is too large or too slow, prompts,
choices and log probabilities beyond the settings.
"""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.denial import denied
from deployments.request_size import request_size
from deployments.specs import Settings

_MIB = 1 << 20


class LimitSpec(Settings):
    """Limits on one request. `max_prompt_chars` bounds all its prompts together, in characters
    or, where the client sends those, token ids. `body_timeout_s` is for the whole body."""

    max_body_mib: float = Field(default=16.0, gt=0)
    body_timeout_s: float = Field(default=30.0, gt=0)
    max_prompt_chars: int = Field(default=1_000_000, ge=1)
    max_sequences: int = Field(default=128, ge=1)
    max_n: int = Field(default=16, ge=1)
    max_best_of: int = Field(default=16, ge=1)
    max_logprobs: int = Field(default=20, ge=0)


class BeyondLimitsError(ValueError):
    """A request that asks for more than is given here; 400."""


def check_limits(limits: LimitSpec, request: Any) -> None:
    """Raises BeyondLimitsError naming the field that is beyond its limit."""
    size = request_size(request)
    _at_most("n", getattr(request, "n", None), limits.max_n)
    _at_most("best_of", getattr(request, "best_of", None), limits.max_best_of)
    _at_most("prompts x n", size.num_sequences, limits.max_sequences)
    for name in ("logprobs", "top_logprobs", "prompt_logprobs"):
        value = getattr(request, name, None)
        if isinstance(value, int) and not isinstance(value, bool):
            if value < 0:
                raise BeyondLimitsError(
                    f"{name} is {value}: all of the vocabulary; at most {limits.max_logprobs} "
                    "are given"
                )
            _at_most(name, value, limits.max_logprobs)
    _at_most("prompt, in characters,", size.num_chars, limits.max_prompt_chars)
    _at_most("prompt, in token ids,", size.num_token_ids, limits.max_prompt_chars)


def _at_most(name: str, value: int | None, most: int) -> None:
    if value is not None and value > most:
        raise BeyondLimitsError(f"{name} is {value}; at most {most} here")


class BoundBodies:
    """ASGI middleware: 413 for a body that is too large, 408 for one that comes too slowly; both
    are counted.

    The body is read here as a whole, as it would be behind it, and handed on in one piece.
    """

    def __init__(self, app: ASGIApp, limits: LimitSpec) -> None:
        self._app = app
        self._most = int(limits.max_body_mib * _MIB)
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        try:
            if _announced(scope) > self._most:
                raise _TooLargeError
            async with asyncio.timeout(self._limits.body_timeout_s):
                body = await self._read(receive)
        except _TooLargeError:
            message = f"the body is larger than {self._limits.max_body_mib:g} MiB"
            await denied("too_large", 413, message)(scope, receive, send)
        except TimeoutError:
            message = f"the body did not come within {self._limits.body_timeout_s:g} s"
            await denied("too_slow", 408, message)(scope, receive, send)
        except _GoneError:
            return  # nobody is there to be answered
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            part = message.get("body", b"")
            size += len(part)
            if size > self._most:
                raise _TooLargeError
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


class _TooLargeError(Exception):
    pass


class _GoneError(Exception):
    pass


def _announced(scope: Scope) -> int:
    """The length that the client says; 0 where it says none, or nonsense."""
    for name, value in scope["headers"]:
        if name.lower() == b"content-length" and value.isdigit():
            return int(value)
    return 0


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` as it was before the body was read; afterwards it says when the client leaves."""
    is_told = False

    async def again() -> Message:
        nonlocal is_told
        if is_told:
            return await receive()
        is_told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
