"""A line of JSON per request, to find one again: its id, who asked, what became of it, and its
trace where it has one.

Neither prompts nor outputs are in it, nor headers but those that we set.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import uuid
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.request_headers import CLASS_HEADER, TENANT_HEADER
from deployments.tracing.span import span_of

ID_HEADER = "x-request-id"
_MAX_ID = 128  # characters of an id that a client chose
_MAX_BYTES = 64 << 20  # of a file
_NUM_OLD = 3

logger = logging.getLogger(__name__)
Write = Callable[[dict[str, Any]], None]


class RequestLog:
    """ASGI middleware behind the one that identifies callers; gives requests without an id one,
    which goes on to targets and back to the client."""

    def __init__(self, app: ASGIApp, write: Write) -> None:
        self._app = app
        self._write = write

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        request_id = headers.get(ID_HEADER, "")[:_MAX_ID] or uuid.uuid4().hex
        seen = _Seen(send, request_id)
        others = [pair for pair in scope["headers"] if pair[0].lower() != ID_HEADER.encode()]
        named = [*others, (ID_HEADER.encode(), request_id.encode("latin-1"))]
        try:
            await self._app({**scope, "headers": named}, receive, seen)
        finally:
            self._write(
                {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "request_id": request_id,
                    "method": scope["method"],
                    "path": scope["path"],
                    "tenant": headers.get(TENANT_HEADER),
                    "service_class": headers.get(CLASS_HEADER),
                    **seen.line(),
                    **_trace(scope),
                }
            )


def _trace(scope: Scope) -> dict[str, str]:
    trace_id = span_of(scope).trace_id
    return {"trace_id": trace_id} if trace_id else {}


class _Seen:
    """What passes by on its way to the client."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._began_s = time.monotonic()
        self._first_s: float | None = None
        self._status: int | None = None
        self._num_bytes = 0
        self._is_whole = False

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            MutableHeaders(scope=message)[ID_HEADER] = self._request_id
        elif message["type"] == "http.response.body":
            body = message.get("body", b"")
            if body and self._first_s is None:
                self._first_s = time.monotonic()
            self._num_bytes += len(body)
            self._is_whole = not message.get("more_body", False)
        await self._send(message)

    def line(self) -> dict[str, Any]:
        return {
            "status": self._status,
            "is_whole": self._is_whole,
            "first_byte_ms": self._ms(self._first_s),
            "ms": self._ms(time.monotonic()),
            "bytes": self._num_bytes,
        }

    def _ms(self, at_s: float | None) -> float | None:
        return None if at_s is None else round(1000 * (at_s - self._began_s), 1)


class _Lines(RotatingFileHandler):
    """Lines that a full disk does not take are lost; that it is so is said once, until it is over.

    The handler's own way is a traceback for each, on a stream that may go to the same disk.
    """

    num_lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self.num_lost
        super().emit(record)
        if lost and lost == self.num_lost:
            logger.error("requests are logged again; lost are at most %d", lost)
            self.num_lost = 0

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - of logging
        if not self.num_lost:
            logger.error("requests are not logged: %s", sys.exc_info()[1])
        self.num_lost += 1


class LogFile:
    """Writes lines to `requests-PID.jsonl` in a directory, 256 MiB of them at most.

    Opened with the first line, as a process gets it by pickling. A directory that cannot be
    written costs the log, and is said once; a disk that is full costs lines for as long as it is.
    """

    def __init__(self, directory: str) -> None:
        self._directory = Path(directory)
        self._handler: _Lines | None = None
        self._has_failed = False

    def __call__(self, line: dict[str, Any]) -> None:
        if self._has_failed:
            return
        try:
            self._handler = self._handler or self._open()
        except OSError as error:
            self._has_failed = True
            logger.error("requests are not logged: %s", error)
            return
        text = json.dumps(line, separators=(",", ":"))
        self._handler.emit(logging.makeLogRecord({"msg": text}))

    def _open(self) -> _Lines:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"requests-{os.getpid()}.jsonl"
        return _Lines(path, maxBytes=_MAX_BYTES, backupCount=_NUM_OLD, encoding="utf-8")
