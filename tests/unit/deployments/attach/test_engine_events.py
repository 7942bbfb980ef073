"""Event streams are read however they are cut."""

import asyncio

import pytest

from deployments.attach.events import MOST_EVENT_BYTES, EventError, EventReader, events

STREAM = ': ping\r\n\r\ndata: {"a": 1}\n\nevent: x\ndata:two\ndata: lines é\r\n\r\n\n\n'.encode()
DATA = ['{"a": 1}', "two\nlines é"]


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_any_way_of_cutting_gives_the_same_events(size):
    reader, found = EventReader(), []
    for start in range(0, len(STREAM), size):
        found += reader.feed(STREAM[start : start + size])
    assert found == DATA


def test_an_event_without_its_end_is_none():
    async def pieces():
        yield STREAM
        yield b"data: half"

    async def run():
        return [data async for data in events(pieces())]

    assert asyncio.run(run()) == DATA


@pytest.mark.parametrize("piece", [b"data: \xff\xfe\n", b"x" * (MOST_EVENT_BYTES + 1)])
def test_what_is_no_event_stream_is_said(piece):
    with pytest.raises(EventError):
        EventReader().feed(piece)
