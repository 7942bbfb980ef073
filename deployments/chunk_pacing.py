"""How often a stream sends: every message costs target, ingress and proxy more than its tokens do.

A message of `ray.serve.llm` is a list of chunks. Serve's own rule lets every stream wait 50 ms
for more of them, the first chunk too. Here the first goes at once, and the later ones the more
seldom the more streams share the processors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

T = TypeVar("T")

PER_STREAM_S = 0.002  # between two messages of a stream, for every stream of the replica
MOST_S = 0.05  # what Serve's own rule waits, however few streams there are


class Pace:
    """How long a replica's streams wait between two messages."""

    def __init__(self) -> None:
        self._num_streams = 0

    def pause_s(self) -> float:
        return min(self._num_streams * PER_STREAM_S, MOST_S)

    async def stream(self, chunks: AsyncGenerator[T, None]) -> AsyncGenerator[list[T], None]:
        """`chunks` in messages; raises what they raise, and closes them when it is closed."""
        self._num_streams += 1
        try:
            async with aclosing(paced(chunks, self.pause_s)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._num_streams -= 1


async def paced(
    chunks: AsyncGenerator[T, None], pause_s: Callable[[], float]
) -> AsyncGenerator[list[T], None]:
    """What has come of `chunks`, then a pause; the end waits for none."""
    waiting: list[T] = []
    arrived = asyncio.Event()
    has_ended = False

    async def read() -> None:
        nonlocal has_ended
        try:
            async for chunk in chunks:
                waiting.append(chunk)
                arrived.set()
        finally:
            has_ended = True
            arrived.set()

    reader = asyncio.create_task(read())
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            if waiting:
                message, waiting = waiting, []
                yield message
            if has_ended and not waiting:
                await reader
                return
            await asyncio.wait((reader,), timeout=pause_s())
            if waiting or has_ended:
                arrived.set()
    finally:
        reader.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await reader
        await chunks.aclose()
