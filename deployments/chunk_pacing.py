"""How often a stream sends: every message costs target, ingress and proxy more than its tokens do.

A message of `ray.serve.llm` is a list of chunks. Serve's own rule lets every stream wait 50 ms
for more of them, the first chunk too. Here the first goes at once, and the later ones the more
seldom the more streams share the processors: so many messages a replica sends per second, and no
more. A message takes some 5 ms of a processor altogether (two shared cores, 2026), which an engine
on the same processors has to do without.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import TypeVar

T = TypeVar("T")

# Between two messages of a stream, for every stream of the replica.
PER_STREAM_S = 0.004
BESIDE_ENGINE_S = 0.008  # that computes on the same processors
MOST_S = 0.25


class Pace:
    """How long a replica's streams wait between two messages: `per_stream_s` for each of them."""

    def __init__(self, per_stream_s: float = PER_STREAM_S) -> None:
        self._per_stream_s = per_stream_s
        self._num_streams = 0

    def pause_s(self) -> float:
        return min(self._num_streams * self._per_stream_s, MOST_S)

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
