from __future__ import annotations

import asyncio

import pytest

from autoscale.pool_view import PoolView
from deployments import pools
from deployments.pools import count_unread_refusal, register, someone_lives


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
        pool.refused_unseen()
    pool.refused_unseen(0.5)
    assert [pool.take_unseen(), pool.take_unseen()] == [3, 0]
    pool.refused_unseen(0.5)
    assert pool.take_unseen() == 1


def test_a_request_of_unknown_model_is_every_pools_share():
    first, second = pool_of("r1"), pool_of("r2")
    register("Target:a", first)
    register("Target:b", second)
    for _ in range(4):
        count_unread_refusal()
    assert (first.take_unseen(), second.take_unseen()) == (2, 2)


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
