"""A span per traced request, around all that the ingress does for it."""

from __future__ import annotations

import random
from collections.abc import Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.request_headers import CLASS_HEADER, TENANT_HEADER, with_headers
from deployments.request_log import ID_HEADER
from deployments.tracing.span import TRACE, Attributes, Span, Tracing
from deployments.tracing.traceparent import TRACEPARENT, TraceParent, is_sampled


class TraceRequests:
    """ASGI middleware behind the one that identifies callers.

    `sample` and the client's own `traceparent` say which requests are traced. The others pass.
    """

    def __init__(
        self,
        app: ASGIApp,
        tracing: Callable[[], Tracing],
        sample: float,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._app = app
        self._tracing = tracing
        self._sample = sample
        self._draw = draw

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        parent = TraceParent.parse(headers.get(TRACEPARENT, ""))
        if not is_sampled(parent, self._sample, self._draw()):
            await self._app(scope, receive, send)
            return
        name = f"{scope['method']} {scope['path']}"
        with self._tracing().begin(name, parent, _asked(scope, headers)) as span:
            answer = _Answer(send, span)
            await self._app({**scope, TRACE: span}, receive, answer)
            span.note({"dspark.is_whole": answer.is_whole})


def carrying(request: Request, span: Span) -> Request:
    """The request as it goes on within `span`."""
    if not span.traceparent:
        return request
    return with_headers(request, {TRACEPARENT: span.traceparent})


def _asked(scope: Scope, headers: Headers) -> Attributes:
    return {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "dspark.tenant": headers.get(TENANT_HEADER, ""),
        "dspark.class": headers.get(CLASS_HEADER, ""),
    }


class _Answer:
    """What passes by on its way to the client."""

    def __init__(self, send: Send, span: Span) -> None:
        self._send = send
        self._span = span
        self._has_begun = False
        self.is_whole = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._begins(message["status"], Headers(raw=message["headers"]))
        elif message["type"] == "http.response.body":
            if message.get("body") and not self._has_begun:
                self._has_begun = True
                self._span.event("first byte")
            self.is_whole = not message.get("more_body", False)
        await self._send(message)

    def _begins(self, status: int, headers: Headers) -> None:
        self._span.note({"http.response.status_code": status})
        if ID_HEADER in headers:
            self._span.note({"dspark.request_id": headers[ID_HEADER]})
        if status >= 500:
            self._span.fail(str(status))
