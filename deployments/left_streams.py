"""Streams whose client has left: whoever works for them hears of it.

Serve cancels what a request has called when the request is cancelled itself. A client that
leaves ends the ingress's request in one of two ways, whichever comes first: Serve cancels it, or
Starlette hears of the disconnection and stops sending, upon which the request ends like any
other, and nobody cancels its call of a target. So here whoever is left early is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployments.continuation import DONE


class Call(Protocol):
    """What is used of a call of a target."""

    def __aiter__(self) -> AsyncIterator[Any]: ...
    def cancel(self) -> None: ...


async def cancelled_when_left(call: Call) -> AsyncGenerator[Any, None]:
    """What `call` answers; it is cancelled when this is, or is closed, before all is said."""
    is_said = False
    try:
        async for item in call:
            is_said = not isinstance(item, (str, list)) or DONE in item  # else part of a stream
            yield item
    except (GeneratorExit, asyncio.CancelledError):
        if not is_said:
            call.cancel()
        raise


class _ClosedAtItsEnd(StreamingResponse):
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self.body_iterator.aclose()  # type: ignore[attr-defined]


def closed_at_its_end(response: Response) -> Response:
    """A response whose stream is closed when it is sent or its client has left.

    Starlette leaves that to the collector of garbage, which takes its time where a traceback
    still holds the stream.
    """
    if not isinstance(response, StreamingResponse):
        return response
    closed = _ClosedAtItsEnd(
        response.body_iterator,
        response.status_code,
        media_type=response.media_type,
        background=response.background,
    )
    closed.raw_headers = response.raw_headers
    return closed
