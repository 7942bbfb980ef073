"""One request through an attached engine: passed on as it is, its tokens counted as they pass."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from math import ceil
from typing import Any

import aiohttp

from deployments.attach.answers import EngineAnswer, read_answer
from deployments.attach.endpoint import Endpoint
from deployments.attach.events import EventError, events
from deployments.attach.requests import EngineRequest
from deployments.continuation import DONE
from deployments.errors import EngineLostError
from deployments.refusal import TryLater
from deployments.replica_gate import Seat

_PASSED_ON = ("x-request-id", "traceparent")  # of the client's headers; its key is for us
_BUSY = (429, 503)
_BUSY_S = 1.0  # where it does not say when to come back
_MOST_BUSY_S = 60.0
_PARTS = ("content", "reasoning", "reasoning_content", "tool_calls")


@dataclass(frozen=True, slots=True)
class Relay:
    """To one engine, for a model that is called `served_as` here. `counts_in_chunks` where
    the engine is of a kind that can say, in every chunk, how many tokens there are by then."""

    endpoint: Endpoint
    served_as: str
    counts_in_chunks: bool

    async def ask(
        self, request: EngineRequest, headers: Mapping[str, str], seat: Seat | None
    ) -> AsyncGenerator[str | EngineAnswer | TryLater, None]:
        """The events of a stream, or its one answer, as the engine gives them.

        Left early, the engine is told. Raises EngineLostError where the engine is.
        """
        body = request.for_engine(self.endpoint.model, counts_in_chunks=self.counts_in_chunks)
        passed_on = {name: headers[name] for name in _PASSED_ON if name in headers}
        try:
            async with self.endpoint.post(request.path, body, passed_on) as reply:
                if reply.status in _BUSY:
                    yield TryLater("engine_busy", _retry_after_s(reply.headers))
                elif reply.status == 200 and reply.content_type == "text/event-stream":
                    async with aclosing(self._stream(request, reply, seat)) as stream:
                        async for event in stream:
                            yield event
                else:
                    yield self._whole(reply.status, await reply.read(), seat)
        except EventError as error:
            raise EngineLostError(str(error)) from None
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise EngineLostError(str(error) or type(error).__name__) from None

    async def _stream(
        self, request: EngineRequest, reply: aiohttp.ClientResponse, seat: Seat | None
    ) -> AsyncGenerator[str, None]:
        tally = _Tally(seat)
        async with aclosing(events(reply.content.iter_any())) as stream:
            async for data in stream:
                if data == "[DONE]":
                    yield DONE
                    return
                chunk = _chunk(data)
                tally.saw(chunk)
                if chunk.get("choices") and not request.wants_usage_in_chunks:
                    chunk.pop("usage", None)
                if "model" in chunk:
                    chunk["model"] = self.served_as
                yield f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"
        raise EngineLostError("the engine ended a stream before its time")

    def _whole(self, status: int, raw: bytes, seat: Seat | None) -> EngineAnswer:
        answer = read_answer(status, raw, self.served_as)
        usage = answer.body.get("usage")
        if seat is not None and answer.error is None and isinstance(usage, Mapping):
            seat.prompt_tokens = usage.get("prompt_tokens")
            seat.saw_whole(usage.get("completion_tokens") or 0)
        return answer


class _Tally:
    """Tells a seat of its tokens: by the engine's count where a chunk has one, by token ids,
    and else by chunks with something in them."""

    def __init__(self, seat: Seat | None) -> None:
        self._seat = seat
        self._num_tokens = 0

    def saw(self, chunk: Mapping[str, Any]) -> None:
        if self._seat is None:
            return
        usage = chunk.get("usage")
        if isinstance(usage, Mapping):
            self._seat.prompt_tokens = usage.get("prompt_tokens")
            by_now = usage.get("completion_tokens") or 0
        else:
            by_now = self._num_tokens + sum(map(_num_tokens, chunk.get("choices") or ()))
        if by_now > self._num_tokens:
            self._seat.saw_tokens(by_now - self._num_tokens)
            self._num_tokens = by_now


def _num_tokens(choice: Mapping[str, Any]) -> int:
    token_ids = choice.get("token_ids")
    if token_ids is not None:
        return len(token_ids)
    delta = choice.get("delta") or {}
    return int(bool(choice.get("text")) or any(delta.get(part) for part in _PARTS))


def _chunk(data: str) -> dict[str, Any]:
    """Raises EventError for what is no chunk."""
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EventError(f"a chunk that is no JSON object: {data[:80]!r}")
    return chunk


def _retry_after_s(headers: Mapping[str, str]) -> int:
    try:
        seconds = float(headers.get("Retry-After", _BUSY_S))
    except ValueError:  # a date
        seconds = _BUSY_S
    return ceil(min(max(seconds, _BUSY_S), _MOST_BUSY_S))
