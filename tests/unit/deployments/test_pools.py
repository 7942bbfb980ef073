from __future__ import annotations

import asyncio

import pytest

from autoscale.demand import MEMORY_S
from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused
from autoscale.service_class import ServiceClass
from deployments import pools
from deployments.pools import (
    QUEUED_AT_CALLER,
    refuse_unread,
    register,
    someone_lives,
)


@pytest.fixture(autouse=True)
def _no_pools(monkeypatch):
    monkeypatch.setattr(pools, "POOLS", {})


def pool_of(*replicas: str) -> PoolView:
    pool = PoolView()
    pool.keep(replicas)
    return pool


def test_refusals_that_no_replica_saw_are_told_once_and_whole():
    pool = pool_of("r1")
    for _ in range(3):
        pool.refused_unseen(5.0)
    pool.refused_unseen(5.0, 0.5)
    assert [pool.take_unseen(5.0), pool.take_unseen(5.0)] == [3, 0]
    pool.refused_unseen(5.0, 0.5)
    assert pool.take_unseen(5.0) == 1


def test_what_was_refused_in_a_long_outage_is_no_burst_after_it():
    pool = pool_of("r1")
    for i in range(60_000):
        pool.refused_unseen(i / 100)
    assert pool.take_unseen(600.0) == pytest.approx(100 * MEMORY_S, rel=0.01)
    pool.refused_unseen(600.0, 100.0)
    assert pool.take_unseen(600.0 + 10 * MEMORY_S) == 0


LINE = Flow("soon", "t")


def refuse(now_s: float, num_ingresses: int = 1) -> Refused | None:
    return refuse_unread({"soon": ServiceClass("soon", 2.0, 0.1)}, num_ingresses, LINE, now_s)


def test_a_request_is_refused_unread_where_every_model_would():
    first, second = pool_of("r1"), pool_of("r2")
    assert refuse(0.0) is None
    register("Target:a", first)
    register("Target:b", second)
    first.refused("r1", LINE, Refused(3.0, "too_late"), 0.0)
    assert refuse(0.0) is None
    second.refused("r2", LINE, Refused(2.0, "queue_full"), 0.0)
    assert refuse(0.0) == Refused(2.0, "queue_full")


@pytest.mark.parametrize("num_ingresses", [1, 2])
def test_a_request_of_unknown_model_is_every_pools_share(num_ingresses):
    pools_ = [pool_of("r1"), pool_of("r2")]
    for i, pool in enumerate(pools_):
        register(f"Target:{i}", pool)
        pool.refused(f"r{i + 1}", LINE, Refused(0.0, "too_late", work_s=4.0), 5.0)
    told = [refuse(5.0, num_ingresses) for _ in range(6 // num_ingresses)]
    assert [pool.take_unseen(5.0) for pool in pools_] == [3 // num_ingresses] * 2
    last = told[-1]
    assert last is not None
    assert 0.75 * 12 <= last.retry_after_s <= 1.25 * 12  # six halves of 4 s each, here or elsewhere


def lives(pool: PoolView, patience_s: float, comes_after_s: float | None = None) -> bool:
    async def run() -> bool:
        if comes_after_s is not None:
            asyncio.get_running_loop().call_later(comes_after_s, pool.keep, ["r1"])
        return await someone_lives(pool, patience_s)

    return asyncio.run(run())


def test_a_pool_that_is_known_to_be_empty_is_waited_for_as_long_as_patience_lasts():
    register("Target:a", empty := pool_of())
    assert not lives(empty, 0.05)
    assert lives(empty, 30.0, comes_after_s=0.05)
    assert lives(empty, 0.05)


def test_a_pool_that_no_router_knows_may_have_replicas():
    register("Target:a", pool_of())
    assert lives(pool_of(), 0.0)


def test_no_more_wait_for_a_dead_pool_than_wait_where_a_living_one_is_called():
    register("Target:a", dead := pool_of())

    async def run() -> list[bool]:
        asked = [someone_lives(dead, 0.05) for _ in range(QUEUED_AT_CALLER + 1)]
        beyond = asyncio.gather(*asked)
        await asyncio.sleep(0)
        assert dead.num_waiting == QUEUED_AT_CALLER
        return await beyond

    assert not any(asyncio.run(run()))
    assert dead.num_waiting == 0
