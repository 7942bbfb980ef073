"""How long a call may wait for a target to take it.

Serve's router waits without bound: for a replica to come, and for the one that it chose to say
that it takes the request, which one that hangs does not say until it is killed. A living one
says so at once, long before the request has a seat: what is taken is never cut off here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

_LEAST_S = 1.0  # which busy processors may take to say it
_OVERDUE_S = 0.1  # to read what came while our own loop stood still


class NotTakenError(Exception):
    """No target took a request in time; `request_id` is what routers know it by."""

    def __init__(self, request_id: str) -> None:
        super().__init__("no target took the request")
        self.request_id = request_id


class Call(Protocol):
    """What is used of Serve's `DeploymentResponseGenerator`."""

    _request_metadata: Any

    async def _fetch_future_result_async(self) -> Any: ...
    def __aiter__(self) -> AsyncIterator[Any]: ...
    def cancel(self) -> None: ...


class TakenInTime:
    """What `call` answers. Raises NotTakenError, and cancels it, where no replica has taken it
    `within_s`; None waits as long as Serve does."""

    def __init__(self, call: Call, within_s: float | None) -> None:
        self._call = call
        self._within_s = within_s
        self._answers = aiter(call)
        self._is_taken = within_s is None

    def __aiter__(self) -> TakenInTime:
        return self

    async def __anext__(self) -> Any:
        if not self._is_taken:
            await self._taken()
            self._is_taken = True
        return await anext(self._answers)

    def cancel(self) -> None:
        self._call.cancel()

    async def _taken(self) -> None:
        taking = asyncio.ensure_future(self._call._fetch_future_result_async())
        try:
            for wait_s in (self._within_s, _OVERDUE_S):
                done, _ = await asyncio.wait({taking}, timeout=wait_s)
                if done:
                    await taking
                    return
        finally:
            taking.cancel()
        self.cancel()
        raise NotTakenError(self._call._request_metadata.internal_request_id)


def take_within_s(left_s: float, *, is_last: bool) -> float:
    """For how long a request with `left_s` to its first token may wait to be taken: half of it
    where another target can be asked after that."""
    return max(left_s if is_last else left_s / 2, _LEAST_S)
