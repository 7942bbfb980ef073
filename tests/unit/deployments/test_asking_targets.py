"""The ingress before gates of targets, each a real one, on a clock that the test sets."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request

from autoscale.admission import ReplicaLimits
from autoscale.pool_view import PoolView
from autoscale.routing import rank
from autoscale.service_class import ServiceClass
from deployments import ingress, pools
from deployments.ingress import FleetIngress
from deployments.pools import refuse_unread, register
from deployments.refusal import RefusedByAllError
from deployments.replica_gate import ReplicaGate
from deployments.request_headers import REFUSED_BY_HEADER, asker
from deployments.seated_requests import SEAT, seated

PROMISES = {"any": ServiceClass("any", math.inf, math.inf)}


class Scene(FleetIngress):
    """Two targets of one seat each, and who was asked how often by whom."""

    def __init__(self, queued_requests: int) -> None:
        self._promises, self._num_ingresses, self._replica_id = PROMISES, 1, "ingress"
        self.pool = PoolView(random.Random(0))
        self.pool.keep("ab")
        register("Target:m", self.pool)
        limits = ReplicaLimits(seats=1, queued_requests=queued_requests)
        self.gates = {name: ReplicaGate(limits, PROMISES, clock=lambda: 0.0) for name in "ab"}
        self.asked: list[str] = []  # tenants
        self.go_on = asyncio.Event()
        self._tasks: list[asyncio.Task[str]] = []

    async def enter(self, tenant: str) -> asyncio.Task[str]:
        """Answered, or still on its way, after some turns of the loop."""
        task = asyncio.create_task(self._answer(tenant))
        self._tasks.append(task)
        for _ in range(20):
            await asyncio.sleep(0)
        return task

    async def end(self) -> None:
        self.go_on.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _answer(self, tenant: str) -> str:
        body = SimpleNamespace(prompt="x", max_tokens=1, n=1, vllm_xargs=None)
        asking = self._ask(body, "completions", request_of(tenant), self.pool)
        async with aclosing(asking) as answers:
            return "".join([answer async for answer in answers])

    async def _call(
        self, body: Any, call_method: str, raw_request: Request, within_s: float | None
    ) -> AsyncGenerator[Any, None]:
        headers, names = raw_request.headers, list(self.gates)
        self.asked.append(asker(headers).tenant)
        candidates = self.pool.candidates(
            names, asker(headers), [], 0.0, 0.0, headers.get(REFUSED_BY_HEADER, "")
        )
        name = names[rank(candidates, 1.0, random.Random(0))[0]]

        async def run() -> AsyncGenerator[Any, None]:
            return self._tokens(name)

        return seated(self.gates[name], body, headers, replica_id=name, most_tokens=1, run=run)

    async def _tokens(self, name: str) -> AsyncGenerator[str, None]:
        await self.go_on.wait()
        seat = SEAT.get()
        assert seat is not None
        seat.saw_tokens(1)
        yield name

    def counts(self, name: str) -> dict[str, int]:
        return {k: v for k, v in self.gates[name].snapshot()["classes"]["any"].items() if v}


def request_of(tenant: str) -> Request:
    headers = {"x-dspark-class": "any", "x-dspark-tenant": tenant}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw})


def play(
    monkeypatch: pytest.MonkeyPatch,
    queued_requests: int,
    story: Callable[[Scene], Awaitable[None]],
) -> None:
    monkeypatch.setattr(ingress, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(pools, "POOLS", {})

    async def run() -> None:
        scene = Scene(queued_requests)
        await story(scene)
        await scene.end()

    asyncio.run(run())


def test_a_tenants_backlog_is_refused_unread_and_nobody_elses_request(monkeypatch):
    async def story(scene: Scene) -> None:
        flood = [await scene.enter("a") for _ in range(6)]  # the seats, and both queues
        assert not any(one.done() for one in flood)
        refused = await scene.enter("a")
        with pytest.raises(RefusedByAllError, match="the queue is full"):
            await refused
        assert scene.asked == ["a"] * 8
        for _ in range(5):
            with pytest.raises(RefusedByAllError):
                await (await scene.enter("a"))
        assert scene.asked == ["a"] * 8
        quiet = request_of("b")
        line = asker(quiet.headers)
        assert refuse_unread(PROMISES, 1, line, 0.0) is None
        assert refuse_unread(PROMISES, 1, line._replace(tenant="a"), 0.0) is not None
        waiting = await scene.enter("b")
        assert "b" in scene.asked
        assert not waiting.done()
        scene.go_on.set()
        assert await waiting in ("a", "b")

    play(monkeypatch, 2, story)


def test_a_request_that_one_refuses_and_another_serves_counts_once_and_as_kept(monkeypatch):
    async def story(scene: Scene) -> None:
        first = await scene.enter("t")
        (busy,) = (name for name, gate in scene.gates.items() if gate.snapshot()["running"])
        (idle,) = set(scene.gates) - {busy}
        second = await scene.enter("t")
        assert scene.asked == ["t"] * 3
        await scene.end()
        assert (await first, await second) == (busy, idle)
        for name in "ab":
            assert scene.counts(name) == {"arrived": 1, "admitted": 1, "met": 1}
            assert scene.gates[name].take_traffic().outcomes["any"] == (1.0, 1.0)

    play(monkeypatch, 0, story)


def test_a_request_that_all_refuse_counts_as_refused_once(monkeypatch):
    async def story(scene: Scene) -> None:
        for _ in range(2):
            await scene.enter("t")
        with pytest.raises(RefusedByAllError):
            await (await scene.enter("t"))
        assert scene.asked == ["t"] * 4  # who refused the second is not asked for the third
        shed = [scene.counts(name).get("shed_queue_full", 0) for name in "ab"]
        assert sum(shed) == 1
        assert sum(scene.counts(name)["arrived"] for name in "ab") == 3

    play(monkeypatch, 0, story)
