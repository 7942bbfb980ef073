"""A client that leaves, whichever way its request then ends, frees the target it was served by."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from starlette.background import BackgroundTask
from starlette.responses import JSONResponse, StreamingResponse

from deployments.continuation import DONE
from deployments.left_streams import cancelled_when_left, closed_at_its_end

SCOPE = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}


class Call:
    """Answers with `items`, then is silent; remembers that it was cancelled."""

    def __init__(self, *items: Any) -> None:
        self.is_cancelled = False
        self._items = list(items)

    def __aiter__(self) -> Call:
        return self

    async def __anext__(self) -> Any:
        if not self._items:
            await asyncio.sleep(3600)
        item = self._items.pop(0)
        if isinstance(item, Exception):
            raise item
        return item

    def cancel(self) -> None:
        self.is_cancelled = True


def test_a_stream_that_is_closed_cancels_its_call():
    async def run() -> bool:
        call = Call(["data: a\n\n"], ["data: b\n\n"])
        async with aclosing(cancelled_when_left(call)) as items:
            await anext(items)
        return call.is_cancelled

    assert asyncio.run(run())


def test_who_is_cancelled_while_it_waits_cancels_its_call():
    async def run() -> bool:
        call = Call()
        task = asyncio.ensure_future(anext(cancelled_when_left(call)))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return call.is_cancelled

    assert asyncio.run(run())


@pytest.mark.parametrize("last", [{"whole": "answer"}, ["data: a\n\n", DONE], DONE])
def test_a_call_that_has_said_all_is_left_to_end_by_itself(last):
    async def run() -> bool:
        call = Call(last)
        async with aclosing(cancelled_when_left(call)) as items:
            assert await anext(items) == last
        return call.is_cancelled

    assert not asyncio.run(run())


def test_a_call_that_failed_is_not_cancelled():
    async def run() -> bool:
        call = Call(ValueError("lost"))
        with pytest.raises(ValueError, match="lost"):
            await anext(cancelled_when_left(call))
        return call.is_cancelled

    assert not asyncio.run(run())


def test_a_disconnection_that_starlette_hears_of_first_cancels_the_call():
    async def run() -> bool:
        call = Call("data: a\n\n", "data: b\n\n")
        sent = asyncio.Event()
        kept = []  # as a traceback keeps the response of a request that ended

        async def receive() -> dict[str, str]:
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.body":
                sent.set()
                await asyncio.sleep(3600)  # who has left reads nothing

        response = StreamingResponse(cancelled_when_left(call), media_type="text/event-stream")
        kept.append(response.body_iterator)
        await closed_at_its_end(response)(SCOPE, receive, send)
        return call.is_cancelled

    assert asyncio.run(run())


def test_an_answer_in_one_piece_stays_as_it_is():
    answer = JSONResponse({})
    assert closed_at_its_end(answer) is answer


def test_a_stream_keeps_its_status_type_headers_and_what_runs_after_it():
    after = BackgroundTask(print)
    headers = {"x-request-id": "r", "content-type": "text/event-stream; charset=utf-8"}
    stream = StreamingResponse(
        cancelled_when_left(Call()), 203, headers, "text/event-stream", background=after
    )
    stream.set_cookie("a", "b")
    stream.set_cookie("c", "d")
    closed = closed_at_its_end(stream)
    assert (closed.status_code, closed.media_type) == (203, "text/event-stream")
    assert closed.raw_headers == stream.raw_headers
    assert closed.background is after
