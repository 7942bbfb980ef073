"""From a request's body to its seat, and what comes back where there is none."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest

from autoscale.admission import ReplicaLimits
from autoscale.request_cost import RequestCost
from autoscale.service_class import ServiceClass
from deployments.refusal import TryLater
from deployments.replica_gate import RefusedError, ReplicaGate
from deployments.request_size import RequestSize, cache_space, request_size, request_text
from deployments.resumption import RESUME
from deployments.seated_requests import SEAT, seated
from deployments.tracing.span import Span

CHAT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "image_url"}]},
    ]
}


def request(**fields: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"max_tokens": None, "n": None} | fields)


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (request(prompt="Hello"), RequestSize(5, 0, 1, None)),
        (request(prompt="Hello", max_tokens=7, n=3), RequestSize(5, 0, 3, 7)),
        (request(prompt=["Hello", "World!"], n=2), RequestSize(11, 0, 4, None)),
        (request(prompt=[1, 2, 3]), RequestSize(0, 3, 1, None)),
        (request(prompt=[[1, 2], [3]]), RequestSize(0, 3, 2, None)),
        (request(**CHAT), RequestSize(14, 0, 1, None)),
        (request(**CHAT, max_completion_tokens=9, max_tokens=5), RequestSize(14, 0, 1, 9)),
        (request(prompt=None), RequestSize(0, 0, 1, None)),
        (request(messages=["no message"]), RequestSize(0, 0, 1, None)),
        (SimpleNamespace(input="to embed"), RequestSize(8, 0, 1, 0)),
    ],
)
def test_sizes_of_requests(body, size):
    assert request_size(body) == size


def test_texts_of_a_chat_and_of_its_next_turn_begin_alike():
    first = request_text(request(**CHAT))
    assert first == "system:Be brief.\nuser:Hello"
    more = [*CHAT["messages"], {"role": "assistant", "content": "Hi."}]
    assert request_text(request(messages=more)).startswith(first)
    assert request_text(request(prompt=[1, 2])) == ""


def test_adapters_and_salts_keep_caches_apart_and_names_of_the_same_model_do_not():
    plain = [request(), request(model=None), request(model="m"), request(model="m", cache_salt="")]
    assert {cache_space(one) for one in plain} == {":"}
    assert cache_space(request(model="m:french")) == "french:"
    assert cache_space(request(model="m", cache_salt="secret")) == ":secret"


def gate(**limits: Any) -> ReplicaGate:
    classes = {
        "any": ServiceClass("any", math.inf, math.inf),
        "soon": ServiceClass("soon", 1.0, 1.0),
    }
    return ReplicaGate(ReplicaLimits(**{"seats": 1} | limits), classes)


class Engine:
    """Answers with what it is told to; counts its requests."""

    def __init__(self, *answers: Any) -> None:
        self.answers = answers
        self.running = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def run(self) -> AsyncGenerator[Any, None]:
        return self._answer()

    async def _answer(self) -> AsyncGenerator[Any, None]:
        self.running += 1
        try:
            seat = SEAT.get()
            assert seat is not None
            seat.prompt_tokens = 5
            for answer in self.answers:
                await self.go_on.wait()
                seat.saw_tokens(1)
                yield answer
        finally:
            self.running -= 1


async def ask(
    one: ReplicaGate, engine: Engine, body: Any = None, class_name: str = "any", **headers: str
) -> list[Any]:
    answers = seated(
        one,
        body or request(prompt="x" * 10),
        {"x-dspark-class": class_name} | headers,
        replica_id="r1",
        most_tokens=100,
        run=engine.run,
    )
    return [answer async for answer in answers]


def counts(one: ReplicaGate, class_name: str = "any") -> dict[str, int]:
    return {k: v for k, v in one.snapshot()["classes"][class_name].items() if v}


def test_what_the_engine_answers_comes_out():
    async def run() -> None:
        one = gate()
        assert await ask(one, Engine("a", "b")) == ["a", "b"]
        assert counts(one) == {"arrived": 1, "admitted": 1, "met": 1}
        assert one.snapshot()["running"] == 0

    asyncio.run(run())


def test_the_engine_is_told_the_class_whatever_the_client_says_of_it():
    async def run() -> None:
        body = request(prompt="x", vllm_xargs={"dspark": "off", "dspark_class": "gold"})
        await ask(gate(), Engine("a"), body, "soon")
        assert body.vllm_xargs == {"dspark": "off", "dspark_class": "soon"}
        body = request(prompt="x", vllm_xargs=None)
        await ask(gate(), Engine("a"), body, "a class of before")
        assert body.vllm_xargs == {"dspark_class": "any"}

    asyncio.run(run())


def test_without_a_seat_there_is_one_answer_that_says_when_to_come_back():
    async def run() -> None:
        one, engine = gate(queued_requests=0), Engine("a")
        engine.go_on.clear()
        first = asyncio.create_task(ask(one, engine))
        await asyncio.sleep(0)
        (answer,) = await ask(one, engine)
        assert answer == TryLater("queue_full", 0.0, "r1")
        engine.go_on.set()
        assert await first == ["a"]

    asyncio.run(run())


def test_a_refusal_counts_where_it_is_the_last_word():
    async def run() -> None:
        one, engine = gate(queued_requests=0), Engine("a")
        engine.go_on.clear()
        first = asyncio.create_task(ask(one, engine))
        await asyncio.sleep(0)
        for elsewhere, refused in (("1", {}), ("0", {"shed_queue_full": 1})):
            (answer,) = await ask(one, engine, **{"x-dspark-elsewhere": elsewhere})
            assert answer == TryLater("queue_full", 0.0, "r1")
            arrived = 1 + len(refused)
            assert counts(one) == {"arrived": arrived, "admitted": 1} | refused
        engine.go_on.set()
        assert await first == ["a"]

    asyncio.run(run())


@pytest.mark.parametrize("error", [SimpleNamespace(error="bad"), [SimpleNamespace(error="bad")]])
def test_a_request_that_the_engine_refuses_keeps_no_promise_and_breaks_none(error):
    async def run() -> None:
        one = gate()
        assert await ask(one, Engine(error)) == [error]
        assert counts(one) == {"arrived": 1, "admitted": 1, "broken_off": 1}

    asyncio.run(run())


def test_a_client_that_leaves_takes_its_request_out_of_the_engine():
    async def run() -> None:
        one, engine = gate(), Engine("a", "b")
        engine.go_on.clear()
        task = asyncio.create_task(ask(one, engine))
        await asyncio.sleep(0.01)
        assert (engine.running, one.snapshot()["running"]) == (1, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (engine.running, one.snapshot()["running"]) == (0, 0)
        assert counts(one) == {"arrived": 1, "admitted": 1, "broken_off": 1}

    asyncio.run(run())


def test_lengths_are_learned():
    async def run() -> None:
        one = gate()
        for _ in range(200):
            await ask(one, Engine("a", "b", "c"))
        assert one.costs.prompt_tokens(100) == pytest.approx(50, rel=0.01)  # 10 characters, 5 ids
        assert one.costs.output_tokens("any", 100) == pytest.approx(3.0)
        assert one.costs.output_tokens("any", 2) == 2.0
        assert one.costs.output_tokens("soon", 100) == 100.0
        assert one.costs.output_tokens("soon", 40960) == 512.0

    asyncio.run(run())


class Trace(Span):
    """Keeps what is said of a request, parts of it behind their name."""

    def __init__(self, name: str = "", said: list[Any] | None = None) -> None:
        self.name = name
        self.said: list[Any] = [] if said is None else said

    @property
    def traceparent(self) -> str:
        return "00-trace"

    def child(self, name: str, *_: Any) -> Trace:
        return Trace(name, self.said)

    def note(self, attributes: Any) -> None:
        self.said.append(dict(attributes))

    def __exit__(self, kind: Any, error: Any, where: Any) -> None:
        self.said.append((self.name, kind))


def test_a_trace_is_told_of_the_wait_for_a_seat_and_of_what_came_of_it():
    async def run() -> None:
        trace = Trace()
        body = request(prompt="x", vllm_xargs={"dspark_trace": "a client's"})
        engine = Engine("a", "b")
        one = gate()
        answers = seated(one, body, {}, replica_id="r1", most_tokens=9, run=engine.run, trace=trace)
        assert [answer async for answer in answers] == ["a", "b"]
        assert body.vllm_xargs == {"dspark_class": "any", "dspark_trace": "00-trace"}
        usage = {"gen_ai.usage.input_tokens": 5, "gen_ai.usage.output_tokens": 2}
        assert trace.said == [
            {"dspark.replica": "r1", "dspark.class": "any"},
            ("admission wait", None),
            usage | {"dspark.is_whole": True},
            ("", None),
        ]

    asyncio.run(run())


def test_the_trace_of_a_request_without_a_seat_ends_with_its_refusal():
    async def run() -> None:
        trace = Trace()
        one = gate(seats=1, queued_requests=0)
        async with one.seat("any", "t", RequestCost(1, 1, 1)):
            answers = seated(
                one,
                request(prompt="x"),
                {},
                replica_id="r1",
                most_tokens=9,
                run=Engine().run,
                trace=trace,
            )
            assert [type(answer) async for answer in answers] == [TryLater]
        assert trace.said[1:] == [("admission wait", RefusedError), ("", RefusedError)]

    asyncio.run(run())


def test_no_client_starts_a_trace_in_the_engine_by_itself():
    async def run() -> None:
        body = request(prompt="x", vllm_xargs={"dspark_trace": "a client's"})
        await ask(gate(), Engine("a"), body)
        assert body.vllm_xargs == {"dspark_class": "any"}

    asyncio.run(run())


def test_of_several_prompts_nothing_is_learned_of_one():
    async def run() -> None:
        one = gate()
        before = one.costs.prompt_tokens(100)
        await ask(one, Engine("a"), request(prompt=["x" * 50, "y" * 50]))
        assert one.costs.prompt_tokens(100) == before
        await ask(one, Engine("a"), request(prompt="x" * 10, n=2))
        assert one.costs.prompt_tokens(100) != before

    asyncio.run(run())


def test_a_stream_that_continues_waits_where_a_newcomer_is_refused():
    async def run() -> None:
        one = gate(queued_requests=0)
        holder = Engine("a")
        holder.go_on.clear()
        holding = asyncio.create_task(ask(one, holder))
        await asyncio.sleep(0)
        (refused,) = await ask(one, Engine("b"))
        assert isinstance(refused, TryLater)
        resumed = request(prompt="x", vllm_xargs={RESUME: "said so far"})
        continuing = asyncio.create_task(ask(one, Engine("c"), resumed, "soon"))
        await asyncio.sleep(0)
        holder.go_on.set()
        assert await holding == ["a"]
        assert await continuing == ["c"]
        assert counts(one, "soon") == {"continued": 1, "admitted": 1, "met": 1}
        assert one.costs.output_tokens("soon", 100) == 100.0  # of the rest nothing is learned

    asyncio.run(run())
