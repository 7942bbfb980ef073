"""The router as Serve calls it, with replicas that stand for running ones."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from ray.serve.config import RequestRouterConfig
from ray.serve.request_router import ReplicaID

from autoscale.fair_queue import Flow
from autoscale.pool_view import Refused, ReplicaState
from autoscale.request_cost import CostModel
from deployments.pools import POOLS, replica_state, routing_stats
from deployments.request_router import WorkRouter

DEPLOYMENT = DeploymentID("Target:m", "app")


class FakeReplica:
    def __init__(self, name: str, **stats: Any) -> None:
        self.replica_id = ReplicaID(name, DEPLOYMENT)
        self.routing_stats = stats
        self.max_ongoing_requests = 8

    async def get_queue_len(self, *, deadline_s: float) -> int:
        return 0


def state(number: float, costs: CostModel | None = None, **fields: Any) -> dict[str, Any]:
    return routing_stats(
        ReplicaState(number, **{"outstanding_work": 0.0} | fields), costs or CostModel()
    )


def routed(story: Callable[[WorkRouter], Any]) -> None:
    async def run() -> None:
        router = WorkRouter(DEPLOYMENT, DeploymentHandleSource.REPLICA)
        router.initialize_state()
        await story(router)

    asyncio.run(run())


def pending(prompt: str = "Hello", max_tokens: int | None = 100, request_id: str = "1") -> Any:
    return SimpleNamespace(
        args=[SimpleNamespace(prompt=prompt, max_tokens=max_tokens, n=1)],
        metadata=SimpleNamespace(internal_request_id=request_id),
        routing_context=SimpleNamespace(should_backoff=False),
    )


async def ranks(router: WorkRouter, replicas: list[Any], request: Any) -> list[str]:
    chosen = await router.choose_replicas(replicas, request)
    assert all(len(rank) == 1 for rank in chosen)
    return [rank[0].replica_id.unique_id for rank in chosen]


def test_a_state_comes_through_routing_stats_as_it_was():
    one = ReplicaState(3.0, 120.0, token_s=0.02)
    assert replica_state({**routing_stats(one, CostModel()), "of_others": 1}) == one
    unknown = ReplicaState(3.0, 120.0)
    assert replica_state(routing_stats(unknown, CostModel())) == unknown
    assert replica_state({}) is None


def test_requests_go_where_less_was_sent():
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica("a"), FakeReplica("b")]
        router.update_replicas(replicas)
        POOLS["Target:m"].sent("a", "1", 100.0)
        for _ in range(20):
            assert await ranks(router, replicas, pending()) == ["b", "a"]
        POOLS["Target:m"].sent("b", "2", 120.0)
        assert await ranks(router, replicas, pending()) == ["a", "b"]
        router.on_request_completed(replicas[1].replica_id, "2")
        assert await ranks(router, replicas, pending()) == ["b", "a"]

    routed(story)


def test_a_prompt_goes_where_its_beginning_was_read():
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica(name) for name in "abcdefgh"]
        router.update_replicas(replicas)
        long = "word " * 400  # 100 tokens of work
        router.on_request_routed(pending(long, 1, "1"), replicas[3].replica_id, None)
        for _ in range(20):
            assert (await ranks(router, replicas, pending(long + "more", 1)))[0] == "d"
        salted = pending(long + "more", 1)
        salted.args[0].cache_salt = "secret"
        chosen = {(await ranks(router, replicas, salted))[0] for _ in range(200)}
        assert chosen == set("abcdefgh")

    routed(story)


def test_who_was_waited_for_in_vain_is_asked_last():
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica("a"), FakeReplica("b")]
        router.update_replicas(replicas)
        pool = POOLS["Target:m"]
        pool.sent("a", "1", 1.0)
        pool.gave_up("1")
        pool.sent("b", "2", 1000.0)
        assert await ranks(router, replicas, pending()) == ["b"]
        pool.gave_up("2")
        assert await ranks(router, replicas, pending()) == ["a", "b"]

    routed(story)


def test_reports_say_who_is_slow():
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [
            FakeReplica("fast", **state(1, token_s=0.01, outstanding_work=100.0)),
            FakeReplica("slow", **state(1, token_s=0.04, outstanding_work=90.0)),
        ]
        router.update_replicas(replicas)
        assert await ranks(router, replicas, pending(max_tokens=1)) == ["fast", "slow"]

    routed(story)


def test_lengths_are_those_that_replicas_learned():
    costs = CostModel()
    costs.record_output("", 300.0)
    for _ in range(500):
        costs.record_prompt(20, 10)

    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica("a", **state(1, costs)), FakeReplica("b")]
        router.update_replicas(replicas)
        for number, (max_tokens, work) in enumerate([(None, 301.0), (100, 101.0)]):
            asked = pending("ten chars.", max_tokens, str(number))
            assert router._work(asked) == pytest.approx(work, rel=1e-3)

    routed(story)


def test_the_process_it_lives_in_hears_when_all_are_full():
    async def story(router: WorkRouter) -> None:
        router.update_replicas([FakeReplica("a"), FakeReplica("b")])
        pool, now_s = POOLS["Target:m"], time.monotonic()
        line = Flow("soon", "t")
        pool.refused("a", line, Refused(2.0, "too_late"), now_s)
        assert pool.refused_by_all(line, now_s) is None
        asked = pending()
        headers = {"x-dspark-class": "soon", "x-dspark-tenant": "t"}
        asked.args.append(SimpleNamespace(headers=headers))
        replicas: list[Any] = [FakeReplica("a"), FakeReplica("b")]
        assert await ranks(router, replicas, asked) == ["b"]
        headers["x-dspark-tenant"] = "u"
        assert sorted(await ranks(router, replicas, asked)) == ["a", "b"]
        pool.refused("b", line, Refused(3.0, "too_late"), now_s)
        assert pool.refused_by_all(line, now_s) == Refused(2.0, "too_late")
        assert pool.refused_by_all(Flow("batch", "t"), now_s) is None

    routed(story)


def test_who_refused_a_request_is_not_asked_again_for_it():
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica("a"), FakeReplica("b")]
        router.update_replicas(replicas)
        asked = pending()
        asked.args.append(SimpleNamespace(headers={"x-dspark-refused-by": "a"}))
        for _ in range(20):
            assert await ranks(router, replicas, asked) == ["b"]

    routed(story)


@pytest.mark.parametrize(
    "request_", [None, SimpleNamespace(args=[], routing_context=SimpleNamespace())]
)
def test_calls_that_are_no_requests_are_routed_too(request_):
    async def story(router: WorkRouter) -> None:
        replicas: list[Any] = [FakeReplica("a")]
        router.update_replicas(replicas)
        assert await ranks(router, replicas, request_) == ["a"]

    routed(story)


IN_A_PROCESS_WITH_A_HANDLE = """
import asyncio, sys
from ray import cloudpickle
from ray.serve._private.common import DeploymentHandleSource, DeploymentID
from deployments.pools import POOLS

async def main():
    copied = cloudpickle.loads(sys.stdin.buffer.read())
    router = copied(DeploymentID("Target:m", "app"), DeploymentHandleSource.REPLICA)
    router.initialize_state()
    assert list(POOLS) == ["Target:m"], POOLS

asyncio.run(main())
"""


def test_copied_as_serve_does_it_still_tells_its_process():
    config = RequestRouterConfig(request_router_class="deployments.request_router:WorkRouter")
    command = [sys.executable, "-c", IN_A_PROCESS_WITH_A_HANDLE]
    copied = config._serialized_request_router_cls
    done = subprocess.run(command, input=copied, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
