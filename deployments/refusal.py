"""Requests that find no room: how a target says so, and how a client hears of it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as HttpScope

from autoscale.admission import Scope
from autoscale.fair_queue import Flow
from autoscale.pool_view import Refused
from deployments.openai_errors import error_response
from deployments.request_headers import asker

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

    `replica_id` refused it. See `autoscale.admission.Refusal`.
    """

    reason: str
    retry_after_s: float
    replica_id: str = ""
    work_s: float = 0.0
    scope: Scope = "line"

    @property
    def refused(self) -> Refused:
        return Refused(self.retry_after_s, self.reason, self.work_s, self.scope)

    @property
    def message(self) -> str:
        return f"{_WHY[self.reason]}. Try again in {ceil(self.retry_after_s)} s."

    @property
    def status(self) -> int:
        return _STATUS.get(self.reason, 429)

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(ceil(self.retry_after_s))}


class RefusedByAllError(Exception):
    """No target took the request; `refusal` says why, and when to come back."""

    def __init__(self, refusal: TryLater) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class RefuseWhenFull:
    """ASGI middleware: says no before anything is read, where everybody would say no.

    In overload most requests are refused, and what that costs is taken from those that are not.
    `refuse` says to whose request no target listens whatever it is, and what the client is told;
    None where there may be room.
    """

    def __init__(self, app: ASGIApp, refuse: Callable[[Flow, float], Refused | None]) -> None:
        self._app = app
        self._refuse = refuse

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _asks_for_a_seat(scope):
            refused = self._refuse(asker(Headers(scope=scope)), time.monotonic())
            if refused is not None:
                REFUSED["known_full"] += 1
                answer = TryLater(refused.reason, refused.retry_after_s)
                respond = error_response(answer.status, answer.message, answer.headers)
                await respond(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _asks_for_a_seat(scope: HttpScope) -> bool:
    return bool(scope["method"] == "POST" and scope["path"].startswith("/v1/"))
