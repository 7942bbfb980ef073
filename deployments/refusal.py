"""Requests that find no room: how a target says so, and how a client hears of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from autoscale.pool_view import Refused
from deployments.openai_errors import error_response
from deployments.request_headers import CLASS_HEADER

_BUSY = "The service is too busy for this request"
_WHY = {
    "queue_full": f"{_BUSY}: the queue is full",
    "too_late": f"{_BUSY}: it would get its first token later than its service class promises",
    "engine_busy": f"{_BUSY}: its engine, which others ask too, is",
    "no_target": "No replica of this model takes requests now; where none lives one is started",
    "engine_down": "The engine of this model, which is attached, gives no answer now",
}
_STATUS = {"engine_down": 503, "no_target": 503}  # the others are 429


REFUSED: Counter[str] = Counter()
"""Requests that this process answered 429, or 503, by why."""


@dataclass(frozen=True, slots=True)
class TryLater:
    """Sent back instead of an answer: a refused request is no error of the replica.

    `replica_id` refused it.
    """

    reason: str
    retry_after_s: int
    replica_id: str = ""

    @property
    def message(self) -> str:
        return f"{_WHY[self.reason]}. Try again in {self.retry_after_s} s."

    @property
    def status(self) -> int:
        return _STATUS.get(self.reason, 429)

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after_s)}


class RefusedByAllError(Exception):
    """No target took the request; `refusal` says why, and when to come back."""

    def __init__(self, refusal: TryLater) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class RefuseWhenFull:
    """ASGI middleware: says no before anything is read, where everybody would say no.

    In overload most requests are refused, and what that costs is taken from those that are not.
    `all_full` says for a class when to come back and why not now, None where there may be room;
    `refused` hears of each that is turned away.
    """

    def __init__(
        self,
        app: ASGIApp,
        all_full: Callable[[str, float], Refused | None],
        refused: Callable[[], None],
    ) -> None:
        self._app = app
        self._all_full = all_full
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _asks_for_a_seat(scope):
            class_name = Headers(scope=scope).get(CLASS_HEADER, "")
            last = self._all_full(class_name, time.monotonic())
            if last is not None:
                REFUSED["known_full"] += 1
                self._refused()
                answer = TryLater(last.reason, ceil(last.retry_after_s))
                respond = error_response(answer.status, answer.message, answer.headers)
                await respond(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _asks_for_a_seat(scope: Scope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"].startswith("/v1/"))
