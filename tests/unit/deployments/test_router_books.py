"""What a router has in its books while Serve routes through it: `AsyncioRouter`'s own code, with
replicas that answer when they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from ray.exceptions import ActorDiedError
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaQueueLengthInfo,
    RequestMetadata,
)
from ray.serve._private.router import AsyncioRouter
from ray.serve.request_router import PendingRequest, ReplicaID

from deployments.pools import POOLS
from deployments.request_router import WorkRouter

DEPLOYMENT = DeploymentID("Target:m", "app")
ACCEPTED, FULL = ReplicaQueueLengthInfo(True, 1), ReplicaQueueLengthInfo(False, 8)
WORK = 100.0


class Sent:
    """A request at a replica. `answer` is what the replica says of it first."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.is_cancelled = False
        self._callbacks: list[Callable[[Any], None]] = []

    async def get_rejection_response(self) -> Any:
        return await self.answer

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> None:
        self.is_cancelled = True

    def end(self, result: Any = None) -> None:
        for callback in self._callbacks:
            callback(result)


class Replica:
    def __init__(self, name: str) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.actor_id = None
        self.routing_stats: dict[str, Any] = {}
        self.max_ongoing_requests = 8
        self.is_cross_language = False
        self.sent: list[Sent] = []
        self.fails: Exception | None = None

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0

    def try_send_request(self, pending: PendingRequest, with_rejection: bool) -> Sent:
        if self.fails is not None:
            raise self.fails
        self.sent.append(Sent())
        return self.sent[-1]


class Serve:
    """Serve's side of a handle: its router with ours in it, and the replicas by name."""

    def __init__(self, *names: str) -> None:
        self.replicas = {name: Replica(name) for name in names}
        ours = WorkRouter(
            DEPLOYMENT, DeploymentHandleSource.REPLICA, use_replica_queue_len_cache=True
        )
        ours.initialize_state()
        ours.update_replicas(list(self.replicas.values()))
        self._router = object.__new__(AsyncioRouter)
        self._router.deployment_id = DEPLOYMENT
        self._router._request_router = ours
        self._router._event_loop = asyncio.get_running_loop()
        self._router._enable_strict_max_ongoing_requests = True
        self._router._metrics_manager = MagicMock()
        self._router._request_router_initialized = asyncio.Event()
        self._router._request_router_initialized.set()

    def route(self, request_id: str) -> asyncio.Task[Any]:
        body = SimpleNamespace(prompt="", max_tokens=int(WORK), n=1)
        pending = PendingRequest([body], {}, RequestMetadata(request_id, request_id), resolved=True)
        return asyncio.create_task(self._router.route_and_send_request(pending, request_id))

    @property
    def books(self) -> dict[str, float]:
        return {name: POOLS["Target:m"].outstanding_work(name, 0.0) for name in self.replicas}


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def told(story: Callable[[], Any]) -> None:
    asyncio.run(story())


def test_requests_of_one_moment_are_spread():
    async def story() -> None:
        serve = Serve("a", "b")
        await settle()  # Serve asks new replicas how busy they are
        waiting = [serve.route(str(i)) for i in range(4)]
        await settle()
        assert serve.books == {"a": 2 * WORK, "b": 2 * WORK}
        assert [len(one.sent) for one in serve.replicas.values()] == [2, 2]
        for task in waiting:
            task.cancel()

    told(story)


def test_a_replica_that_takes_nothing_is_sent_no_more_than_its_share():
    async def story() -> None:
        serve = Serve("hung", "b")
        await settle()
        for i in range(20):
            serve.route(str(i))
            await settle()
            for sent in serve.replicas["b"].sent:
                if not sent.answer.done():
                    sent.answer.set_result(ACCEPTED)
                    await settle()
                    sent.end()
            await settle()
        # One at first, where both look idle; from then on it has that to do.
        assert len(serve.replicas["hung"].sent) == 1
        assert serve.books == {"hung": WORK, "b": 0.0}

    told(story)


def test_an_end_that_is_heard_of_before_the_replica_took_it_leaves_nothing():
    async def story() -> None:
        serve = Serve("a")
        waiting = serve.route("1")
        await settle()
        (sent,) = serve.replicas["a"].sent
        sent.end()
        await settle()
        assert serve.books == {"a": 0.0}
        sent.answer.set_result(ACCEPTED)
        assert await waiting is sent
        assert serve.books == {"a": 0.0}

    told(story)


def test_a_request_that_was_turned_away_is_booked_where_it_goes_then():
    async def story() -> None:
        serve = Serve("a")
        waiting = serve.route("1")
        await settle()
        first = serve.replicas["a"].sent[0]
        first.answer.set_result(FULL)
        await settle()
        assert first.is_cancelled
        while len(serve.replicas["a"].sent) == 1:  # Serve asks whether it is still full
            await asyncio.sleep(0.01)
        assert serve.books == {"a": 2 * WORK}  # the end of the first is not heard of yet
        first.end()
        await settle()
        assert serve.books == {"a": WORK}
        second = serve.replicas["a"].sent[1]
        second.answer.set_result(ACCEPTED)
        assert await waiting is second
        second.end()
        await settle()
        assert serve.books == {"a": 0.0}

    told(story)


@pytest.mark.parametrize("num_turns", range(12))
def test_whenever_it_is_cancelled_nothing_stays_that_no_replica_has(num_turns):
    async def story() -> None:
        serve = Serve("a")
        await settle()
        waiting = serve.route("1")
        for _ in range(num_turns):
            await asyncio.sleep(0)
        waiting.cancel()
        await settle()
        sent = serve.replicas["a"].sent
        assert serve.books == {"a": WORK * len(sent)}
        for one in sent:
            assert one.is_cancelled
            one.end()
        await settle()
        assert serve.books == {"a": 0.0}

    told(story)


def test_a_replica_that_cannot_be_sent_to_has_nothing():
    async def story() -> None:
        serve = Serve("a")
        serve.replicas["a"].fails = ValueError("cannot be pickled")
        with pytest.raises(ValueError, match="cannot be pickled"):
            await serve.route("1")
        assert serve.books == {"a": 0.0}

    told(story)


def test_of_a_replica_that_died_nothing_is_left():
    async def story() -> None:
        serve = Serve("a", "b")
        waiting = serve.route("1")
        await settle()
        (name,) = (one for one, replica in serve.replicas.items() if replica.sent)
        lost = serve.replicas.pop(name).sent[0]
        lost.answer.set_exception(ActorDiedError())
        await settle()
        (other,) = serve.replicas
        assert serve.books == {other: WORK}
        assert name not in POOLS["Target:m"]
        lost.end(ActorDiedError())
        serve.replicas[other].sent[0].answer.set_result(ACCEPTED)
        await waiting
        serve.replicas[other].sent[0].end()
        await settle()
        assert serve.books == {other: 0.0}

    told(story)
