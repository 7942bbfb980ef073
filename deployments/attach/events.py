"""Server-sent events, bytes in and data out, as every OpenAI endpoint streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

MOST_EVENT_BYTES = 16 << 20


class EventError(ValueError):
    """Bytes that are no event stream; the message says why."""


class EventReader:
    """Finds the events in a stream however it is cut. Comments, which keep a connection open,
    and fields other than `data` are left out."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[str]:
        """The data of the events that end in `piece`. Raises EventError."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > MOST_EVENT_BYTES:
            raise EventError(f"an event of more than {MOST_EVENT_BYTES} bytes")
        ended = []
        for line in lines:
            said = self._line(line.removesuffix(b"\r"))
            if said is not None:
                ended.append(said)
        return ended

    def _line(self, line: bytes) -> str | None:
        if not line:
            data, self._data = self._data, []
            return "\n".join(data) if data else None
        name, _, value = line.partition(b":")
        if name == b"data":
            try:
                self._data.append(value.removeprefix(b" ").decode())
            except UnicodeDecodeError:
                raise EventError("what it sends is not UTF-8") from None
        return None


async def events(pieces: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    """The data of every event. Raises EventError, and what `pieces` raises."""
    reader = EventReader()
    async for piece in pieces:
        for data in reader.feed(piece):
            yield data
