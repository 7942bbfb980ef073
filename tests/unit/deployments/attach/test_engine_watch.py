"""An attached engine is up while anything comes from it, and down until a token does again."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from deployments.attach.endpoint import Endpoint
from deployments.attach.watch import EngineWatch
from tests.unit.deployments.attach.scripted_engine import scripted_engine


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


@asynccontextmanager
async def watched(limit_s=2.0):
    async with scripted_engine() as engine:
        endpoint = Endpoint(engine.url, "theirs", None)
        await endpoint.find_probe(1.0)
        engine.asked.clear()
        try:
            yield engine, EngineWatch(endpoint, limit_s, clock=Clock())
        finally:
            await endpoint.close()


async def ask(endpoint, prompt="hi"):
    async with endpoint.post("/v1/completions", {"model": "m", "prompt": prompt}, {}) as reply:
        await reply.read()
        return reply.status


async def until(condition):
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def ticks(watch, count):
    for _ in range(count):
        await watch.tick()
        await asyncio.sleep(0)


def test_one_that_says_something_is_not_probed():
    async def run():
        async with watched() as (engine, watch):
            for _ in range(6):
                watch.saw_result()
                await ticks(watch, 1)
            assert (watch.down, engine.asked) == (None, [])

    asyncio.run(run())


def test_one_that_is_idle_is_probed_and_stays_up():
    async def run():
        async with watched() as (engine, watch):
            await ticks(watch, 1)
            await until(lambda: engine.asked)
            await asyncio.sleep(0.1)  # its answer
            await ticks(watch, 1)
            assert (watch.down, len(engine.asked)) == (None, 1)

    asyncio.run(run())


def test_one_that_hangs_goes_down_with_all_that_is_under_way_and_comes_back_with_a_token():
    async def run():
        async with watched() as (engine, watch):
            engine.hangs = True
            request = asyncio.create_task(ask(watch.endpoint))
            await until(lambda: engine.asked)
            await ticks(watch, 1)
            await until(lambda: len(engine.asked) == 2)
            await ticks(watch, 1)
            assert watch.down == "nothing came from it for 2 s, not even a probe"
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(request, 5)
            watch._clock.now_s += 30
            assert (watch.down_s, watch.num_outages) == (30.0, 1)
            engine.hangs = False
            while watch.down is not None:
                await ticks(watch, 1)
                await asyncio.sleep(0.05)
            assert watch.down_s == 0.0

    asyncio.run(run())


def test_one_that_is_too_busy_for_a_probe_is_not_down():
    async def run():
        async with watched(limit_s=0.3) as (engine, watch):
            engine.hangs = True
            watch.lost("a stream broke off")
            await until(lambda: engine.asked)
            watch.saw_result()
            await until(lambda: watch._asked.done())
            assert watch.down is None
            watch.lost("another one did")
            await until(lambda: watch.down)
            assert watch.down == "no answer in 0.3 s"

    asyncio.run(run())


def test_one_that_takes_no_more_may_finish_what_it_has():
    async def run():
        async with watched() as (engine, watch):
            request = asyncio.create_task(ask(watch.endpoint, "slow"))
            await until(lambda: engine.asked)
            engine.models = []
            watch.lost("it took no more")
            await until(lambda: watch.down)
            await ticks(watch, 1)
            assert await request == 200

    asyncio.run(run())


def test_after_a_lost_request_it_is_looked_at_at_once():
    async def run():
        async with watched() as (engine, watch):
            watch.lost("a stream broke off")
            await until(lambda: engine.asked)
            await asyncio.sleep(0.1)
            assert watch.down is None
            engine.models = [{"id": "another"}]
            watch.lost("a stream broke off")
            await until(lambda: watch.down)
            assert "serves another, not theirs" in watch.down

    asyncio.run(run())
