"""Messages of a stream: the first at once, later ones at the replica's pace, nothing lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from deployments.chunk_pacing import MOST_S, PER_STREAM_S, Pace, paced


class Source:
    """Gives what is put into it; remembers that it was closed."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[int | BaseException | None] = asyncio.Queue()
        self.is_closed = False

    async def chunks(self) -> AsyncGenerator[int, None]:
        try:
            while (chunk := await self.queue.get()) is not None:
                if isinstance(chunk, BaseException):
                    raise chunk
                yield chunk
        finally:
            self.is_closed = True


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_the_first_chunk_goes_at_once_and_the_next_ones_together():
    async def run() -> list[list[int]]:
        source, pauses = Source(), [0.02]
        messages = []
        async with aclosing(paced(source.chunks(), lambda: pauses[0])) as stream:
            source.queue.put_nowait(1)
            messages.append(await anext(stream))
            for chunk in (2, 3, 4):
                source.queue.put_nowait(chunk)
            messages.append(await anext(stream))
        return messages

    assert asyncio.run(run()) == [[1], [2, 3, 4]]


def test_the_end_waits_for_nothing_and_nothing_is_lost():
    async def run() -> list[list[int]]:
        source = Source()
        for chunk in (1, 2, None):
            source.queue.put_nowait(chunk)
        return [message async for message in paced(source.chunks(), lambda: 3600.0)]

    assert [chunk for message in asyncio.run(run()) for chunk in message] == [1, 2]


def test_an_error_comes_after_what_came_before_it():
    async def run() -> list[list[int]]:
        source = Source()
        for chunk in (1, 2, ValueError("broken")):
            source.queue.put_nowait(chunk)
        stream = paced(source.chunks(), lambda: 0.0)
        seen = [await anext(stream)]
        if seen == [[1]]:
            seen.append(await anext(stream))
        with pytest.raises(ValueError, match="broken"):
            await anext(stream)
        return seen

    assert [chunk for message in asyncio.run(run()) for chunk in message] == [1, 2]


@pytest.mark.parametrize("after", [0, 1])
def test_who_stops_listening_closes_the_source(after):
    async def run() -> bool:
        source = Source()
        source.queue.put_nowait(1)
        stream = paced(source.chunks(), lambda: 3600.0)
        task = asyncio.ensure_future(anext(stream))
        await task
        if after:  # while it pauses
            task = asyncio.ensure_future(anext(stream))
            await settle()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await stream.aclose()
        return source.is_closed

    assert asyncio.run(run())


def test_a_replicas_pace_follows_its_streams_up_to_a_bound():
    async def run() -> list[float]:
        pace, streams, pauses = Pace(), [], []
        for _ in range(80):
            source = Source()
            source.queue.put_nowait(1)
            streams.append(pace.stream(source.chunks()))
            await anext(streams[-1])
            pauses.append(pace.pause_s())
        for stream in streams:
            await stream.aclose()
        return [*pauses, pace.pause_s()]

    pauses = asyncio.run(run())
    assert pauses[:2] == [PER_STREAM_S, 2 * PER_STREAM_S]
    assert pauses[-2:] == [MOST_S, 0.0]


def test_a_stream_that_is_closed_has_closed_its_source():
    async def run() -> bool:
        source = Source()
        source.queue.put_nowait(1)
        async with aclosing(Pace().stream(source.chunks())) as stream:
            await anext(stream)
        return source.is_closed

    assert asyncio.run(run())
