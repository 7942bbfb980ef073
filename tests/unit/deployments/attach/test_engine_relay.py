"""A request through an engine: its stream as it comes, its tokens counted, its end told."""

import asyncio
import json
from contextlib import aclosing

import pytest

from deployments.attach.answers import EngineAnswer
from deployments.attach.endpoint import Endpoint
from deployments.attach.relay import Relay
from deployments.continuation import DONE
from deployments.errors import EngineLostError
from deployments.refusal import TryLater
from tests.unit.deployments.attach.scripted_engine import (
    TOKENS,
    request_for,
    scripted_engine,
)


class Seat:
    """What a replica's gate would hear."""

    def __init__(self):
        self.saw, self.whole, self.prompt_tokens = [], None, None

    def saw_tokens(self, num_tokens):
        self.saw.append(num_tokens)

    def saw_whole(self, num_tokens):
        self.whole = num_tokens


async def relay_of(engine, counts_in_chunks=False):
    return Relay(Endpoint(engine.url, "theirs", None), "m", counts_in_chunks)


def asked(prompt, *, counts_in_chunks=False, headers=None, **body):
    """Items, the seat and the engine."""

    async def run():
        async with scripted_engine() as engine:
            relay, seat = await relay_of(engine, counts_in_chunks), Seat()
            request = request_for("completions", {"model": "m", "prompt": prompt, **body})
            try:
                items = [item async for item in relay.ask(request, headers or {}, seat)]
            finally:
                await relay.endpoint.close()
            return items, seat, engine

    return asyncio.run(run())


def chunks(items):
    return [json.loads(item.removeprefix("data: ")) for item in items if item != DONE]


def test_a_stream_is_passed_on_event_by_event_under_our_name():
    items, _, engine = asked("hi", stream=True, seed=7)
    *said, usage = chunks(items)
    assert [chunk["choices"][0]["delta"]["content"] for chunk in said] == list(TOKENS)
    assert {chunk["model"] for chunk in said} == {"m"}
    assert usage["usage"]["completion_tokens"] == 4
    assert items[-1] == DONE
    assert engine.asked[0][1]["seed"] == 7


@pytest.mark.parametrize("counts_in_chunks", [False, True])
def test_tokens_are_told_to_the_seat_as_they_come(counts_in_chunks):
    items, seat, _ = asked("hi", stream=True, counts_in_chunks=counts_in_chunks)
    assert (seat.saw, seat.prompt_tokens) == ([1, 1, 1, 1], 5)
    assert not any("usage" in chunk for chunk in chunks(items)[:-1])  # nobody asked for those


def test_counts_in_chunks_stay_where_the_client_asked_for_them():
    options = {"continuous_usage_stats": True}
    items, _, _ = asked("hi", stream=True, stream_options=options, counts_in_chunks=True)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks(items)]
    assert counts == [1, 2, 3, 4, 4]


def test_an_answer_in_one_piece_tells_the_seat_what_it_came_to():
    (answer,), seat, _ = asked("hi")
    assert (answer.status, answer.body["model"], answer.body["more"]) == (200, "m", [None])
    assert (seat.saw, seat.whole, seat.prompt_tokens) == ([], 4, 5)


def test_the_clients_key_stays_here_and_its_request_id_goes_on():
    headers = {"x-request-id": "r1", "authorization": "Bearer client"}
    _, _, engine = asked("hi", headers=headers)
    sent = {name.lower(): value for name, value in engine.headers[0].items()}
    assert sent["x-request-id"] == "r1"
    assert "authorization" not in sent


@pytest.mark.parametrize(("prompt", "status"), [("vllm", 400), ("sglang", 422), ("page", 502)])
@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_keeps_its_status(prompt, status, stream):
    (answer,), seat, _ = asked(prompt, stream=stream)
    assert isinstance(answer, EngineAnswer)
    assert (answer.status, answer.error["code"]) == (status, status)
    assert seat.whole is None


def test_a_busy_engine_is_for_another_replica_and_says_when_to_come_back():
    items, _, _ = asked("busy", stream=True)
    assert items == [TryLater("engine_busy", 7)]


@pytest.mark.parametrize("prompt", ["cut", "garbage"])
def test_a_stream_that_breaks_is_a_lost_engine(prompt):
    with pytest.raises(EngineLostError):
        asked(prompt, stream=True)


def test_an_engine_that_does_not_listen_is_lost():
    async def run():
        relay = Relay(Endpoint("http://127.0.0.1:9", "theirs", None), "m", counts_in_chunks=False)
        try:
            async for _ in relay.ask(request_for("chat", {"messages": []}), {}, None):
                raise AssertionError
        finally:
            await relay.endpoint.close()

    with pytest.raises(EngineLostError, match="127"):
        asyncio.run(run())


@pytest.mark.parametrize("how", ["closed", "cancelled"])
def test_the_engine_is_told_when_the_client_leaves(how):
    async def leave(relay, request, heard):
        async with aclosing(relay.ask(request, {}, None)) as items:
            async for item in items:
                heard.append(item)
                if how == "closed" and len(heard) == 2:
                    return

    async def run():
        async with scripted_engine() as engine:
            relay, heard = await relay_of(engine), []
            request = request_for("completions", {"prompt": "endless", "stream": True})
            asking = asyncio.create_task(leave(relay, request, heard))
            while len(heard) < 2:
                await asyncio.sleep(0.01)
            if how == "cancelled":
                asking.cancel()
            await asyncio.wait([asking])
            async with asyncio.timeout(5):
                while not engine.left:
                    await asyncio.sleep(0.01)
            await relay.endpoint.close()
            return engine.left[0]["prompt"]

    assert asyncio.run(run()) == "endless"
