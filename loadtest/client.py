"""One streamed chat request to an OpenAI endpoint; whatever happens to it, it has an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from loadtest.stream import Answer, Piece, parse_answer
from profiles.load_records import RESET, STALLED


@dataclass(frozen=True, slots=True)
class Received:
    """A request's raw outcome: when it was sent (by `time.perf_counter`), and what came back.

    `failure` is the status of a request whose connection failed, with the reason.
    `retry_after_s` is what a refusal asks to wait.
    """

    sent_at: float
    http_status: int
    pieces: tuple[Piece, ...]
    failure: tuple[str, str] | None = None
    retry_after_s: float | None = None

    @property
    def ended_at(self) -> float:
        """When the last byte arrived; when it was sent where nothing did."""
        return self.sent_at + (self.pieces[-1].at_s if self.pieces else 0.0)

    def answer(self) -> Answer:
        """What came, understood."""
        answer = parse_answer(self.pieces, self.http_status) if self.http_status else Answer("ok")
        if self.failure is None:
            return answer
        status, error = self.failure
        return replace(answer, status=status, error=error)


class ChatClient:
    """Sends chats to `url` over as many connections as there are requests in flight.

    `stall_s` without a byte ends a request, and so do `limit_s` altogether: a server that
    never ends cannot fill our memory. Use it as an async context manager.
    """

    def __init__(
        self, url: str, *, stall_s: float, limit_s: float = 600.0, api_key: str | None = None
    ) -> None:
        self._url = f"{url.rstrip('/')}/v1/chat/completions"
        self._stall_s = stall_s
        self._limit_s = limit_s
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}

    async def __aenter__(self) -> ChatClient:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._stall_s),
            headers=self._headers,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def chat(
        self, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Received:
        """Send one chat and take its answer. Raises nothing of the network's."""
        sent_at = time.perf_counter()
        pieces: list[Piece] = []
        http_status = 0
        failure = retry_after = None
        now = asyncio.get_running_loop().time
        ends_at = now() + self._limit_s
        try:
            async with asyncio.timeout(self._stall_s) as limit:
                async with self._session.post(self._url, json=body, headers=headers) as response:
                    http_status = response.status
                    retry_after = response.headers.get("Retry-After")
                    async for data in response.content.iter_any():
                        pieces.append(Piece(time.perf_counter() - sent_at, data))
                        limit.reschedule(min(now() + self._stall_s, ends_at))
        except TimeoutError:
            late = now() >= ends_at
            reason = (
                f"no end after {self._limit_s:g} s" if late else f"no byte for {self._stall_s:g} s"
            )
            failure = (STALLED, reason)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            failure = (RESET, f"{type(error).__name__}: {error}")
        return Received(sent_at, http_status, tuple(pieces), failure, _seconds(retry_after))


def class_header(service_class: str | None) -> dict[str, str]:
    """What asks for a class; servers that know none do not look at it."""
    return {"x-dspark-class": service_class} if service_class else {}


def _seconds(retry_after: str | None) -> float | None:
    """Of a `Retry-After` header; None for a date, which says more of clocks than of the server."""
    try:
        return None if retry_after is None else float(retry_after)
    except ValueError:
        return None
