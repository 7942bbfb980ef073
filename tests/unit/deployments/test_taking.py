"""Calls that no target takes end in time; what one has taken is waited for as long as it lasts."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.handle import DeploymentResponseGenerator

from deployments.left_streams import cancelled_when_left
from deployments.taking import NotTakenError, TakenInTime, take_within_s


class Result:
    """What a replica answers, as Serve's router gives it away once it took the request."""

    def __init__(self, *items: Any, pause_s: float = 0.0) -> None:
        self._items = list(items)
        self._pause_s = pause_s
        self.is_cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        await asyncio.sleep(self._pause_s)
        if not self._items:
            raise StopAsyncIteration
        return self._items.pop(0)

    def cancel(self) -> None:
        self.is_cancelled = True


def call_of(assigned: concurrent.futures.Future[Any]) -> DeploymentResponseGenerator[Any]:
    """Serve's own answer to a call, with the router's promise of a replica."""
    return DeploymentResponseGenerator(
        assigned, SimpleNamespace(request_id="x", internal_request_id="r1")
    )


async def items_of(call: DeploymentResponseGenerator[Any], within_s: float | None) -> list[Any]:
    return [item async for item in cancelled_when_left(TakenInTime(call, within_s))]


def test_a_call_that_nobody_takes_is_cancelled_and_named():
    assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
    call = call_of(assigned)
    with pytest.raises(NotTakenError) as raised:
        asyncio.run(items_of(call, 0.01))
    assert raised.value.request_id == "r1"
    assert assigned.cancelled()  # which ends what Serve's router does for it
    assert call.cancelled()


@pytest.mark.parametrize("within_s", [0.01, None])
def test_what_is_taken_may_take_its_time(within_s):
    assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
    result = Result("a", "b", pause_s=0.05)
    assigned.set_result(result)
    assert asyncio.run(items_of(call_of(assigned), within_s)) == ["a", "b"]
    assert not result.is_cancelled


def test_what_came_while_our_own_loop_stood_still_is_taken():
    async def run() -> list[Any]:
        assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
        call = asyncio.create_task(items_of(call_of(assigned), 0.05))
        await asyncio.sleep(0)
        threading.Timer(0.02, assigned.set_result, [Result("a")]).start()
        time.sleep(0.1)
        return await call

    assert asyncio.run(run()) == ["a"]


def test_who_leaves_while_nobody_takes_it_leaves_nothing_behind():
    async def run() -> int:
        assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
        call = asyncio.create_task(items_of(call_of(assigned), 60.0))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0)
        return len(asyncio.all_tasks())

    assert asyncio.run(run()) == 1


def test_without_a_limit_it_is_waited_for():
    async def run() -> list[Any]:
        assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
        asyncio.get_running_loop().call_later(0.05, assigned.set_result, Result("a"))
        return await items_of(call_of(assigned), None)

    assert asyncio.run(run()) == ["a"]


def test_what_serve_raises_instead_comes_through():
    assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()
    assigned.set_exception(lost := ActorDiedError())
    with pytest.raises(ActorDiedError) as raised:
        asyncio.run(items_of(call_of(assigned), 1.0))
    assert raised.value is lost


def test_who_leaves_before_it_is_taken_ends_it():
    assigned: concurrent.futures.Future[Any] = concurrent.futures.Future()

    async def run() -> None:
        task = asyncio.ensure_future(items_of(call_of(assigned), 60.0))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert assigned.cancelled()


@pytest.mark.parametrize(
    ("left_s", "is_last", "within_s"),
    [(4.0, False, 2.0), (4.0, True, 4.0), (0.05, False, 1.0), (-3.0, True, 1.0)],
)
def test_half_of_what_is_left_is_for_another_target(left_s, is_last, within_s):
    assert take_within_s(left_s, is_last=is_last) == within_s
