"""The replica before an attached engine: seats, refusals, outages and what it reports."""

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from autoscale.service_class import BEST_EFFORT, ServiceClass
from deployments.attach import server
from deployments.attach.server import AttachedServer
from deployments.continuation import DONE
from deployments.errors import ConfigError, EngineLostError
from deployments.refusal import TryLater
from deployments.schema import AttachedModelSpec
from tests.unit.deployments.attach.scripted_engine import request_for, scripted_engine

SOON = ServiceClass("soon", ttft_s=1.0, tpot_s=0.5)


@pytest.fixture(autouse=True)
def without_a_fleet(monkeypatch):
    async def forever(*_, **__):
        await asyncio.Event().wait()

    rank = SimpleNamespace(rank=0)
    context = SimpleNamespace(app_name="a", replica_id=SimpleNamespace(unique_id="r"), rank=rank)
    monkeypatch.setattr(server.serve, "get_replica_context", lambda: context)
    monkeypatch.setattr(server, "exchange_forever", forever)
    monkeypatch.setattr(server, "Publisher", lambda *_, **__: None)
    return rank


async def started(urls, promise=BEST_EFFORT, **attach):
    spec = {"url": urls, "model": "theirs", "wait_s": 0} | attach
    replica = object.__new__(AttachedServer)
    await replica.__init__(AttachedModelSpec(id="m", attach=spec), {promise.name: promise})
    return replica


async def stop(replica):
    replica._exchange.cancel()
    replica._watched.cancel()
    await replica._endpoint.close()


@asynccontextmanager
async def serving(promise=BEST_EFFORT, **attach):
    async with scripted_engine() as engine:
        replica = await started(engine.url, promise, **attach)
        engine.asked.clear()
        try:
            yield engine, replica
        finally:
            await stop(replica)


def completion(prompt, **body):
    return request_for("completions", {"model": "m", "prompt": prompt, "max_tokens": 4, **body})


async def answers(replica, request):
    return [item async for item in replica.completions(request, None)]


async def engine_of(replica):
    return (await replica._report()).stats["engine"]


def test_it_needs_neither_vllm_nor_torch():
    code = (
        "import sys, deployments.attach.server\n"
        "assert not {'vllm', 'torch', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stream_comes_in_lists_of_events():
    async def run():
        async with serving() as (_, replica):
            messages = await answers(replica, completion("hi", stream=True))
            assert all(isinstance(message, list) for message in messages)
            events = [event for message in messages for event in message]
            assert events[-1] == DONE
            assert json.loads(events[0][6:])["model"] == "m"

    asyncio.run(run())


def test_what_it_served_is_in_its_load_and_its_classes():
    async def run():
        async with serving(SOON) as (_, replica):
            await answers(replica, completion("hi", stream=True))
            await answers(replica, completion("hi"))
            await answers(replica, completion("vllm"))
            report = await replica._report()
            assert (report.placement, report.replica_id) == ("attached", "r")
            classes = report.stats["admission"]["classes"]["soon"]
            assert (classes["met"], classes["missed"], classes["broken_off"]) == (2, 0, 1)
            assert report.stats["committed_tokens"] == 120
            assert report.stats["accepted_tokens"] == 60
            assert (report.load.running, report.load.seats) == (5, 32)
            assert report.load.tokens_per_s == 0.0  # what it had made before is not ours
            latencies = replica._gate.take_latencies()
            assert [one.class_name for one in latencies] == ["soon"]  # of the stream alone

    asyncio.run(run())


def test_tokens_per_second_are_the_engines_whoever_asked_for_them():
    async def run():
        async with serving() as (engine, replica):
            await replica._report()
            engine.metrics = engine.metrics.replace("1.2e+02", "9.2e+02")
            assert (await replica._report()).load.tokens_per_s > 0

    asyncio.run(run())


def test_without_metrics_it_says_so_and_counts_what_it_sees():
    async def run():
        async with scripted_engine() as engine:
            engine.metrics = None
            replica = await started(engine.url)
            said = await engine_of(replica)
            assert said["kind"] is None
            assert "--enable-metrics" in said["no_metrics"]
            await answers(replica, completion("hi", stream=True))
            report = await replica._report()
            assert report.load.tokens_per_s > 0
            assert "committed_tokens" not in report.stats
            assert replica._relay.counts_in_chunks is False
            await stop(replica)

    asyncio.run(run())


def test_beyond_its_seats_requests_wait_and_beyond_its_queue_they_are_refused():
    async def run():
        async with serving(max_num_seqs=1, max_queued_requests=1) as (engine, replica):
            request = completion("endless", stream=True)
            first, second = (asyncio.create_task(answers(replica, request)) for _ in "12")
            while not engine.asked:
                await asyncio.sleep(0.01)
            (refused,) = await answers(replica, request)
            assert (refused.reason, refused.replica_id) == ("queue_full", "r")
            assert len(engine.asked) == 1
            first.cancel()
            while len(engine.asked) < 2:
                await asyncio.sleep(0.01)
            assert engine.left
            second.cancel()
            await asyncio.wait([first, second])
            assert replica._gate.snapshot()["running"] == 0

    asyncio.run(run())


def test_an_engine_that_is_busy_or_down_is_for_another_replica():
    async def run():
        async with serving() as (engine, replica):
            assert await answers(replica, completion("busy")) == [TryLater("engine_busy", 7, "r")]
            assert replica._gate.snapshot()["classes"]["default"]["broken_off"] == 1
            replica._watch.down = "no answer"
            engine.asked.clear()
            (refused,) = await answers(replica, completion("hi"))
            assert (refused.status, refused.retry_after_s) == (503, 2)
            assert not engine.asked
            assert replica._gate.snapshot()["classes"]["default"]["arrived"] == 1  # the busy one
            assert (await engine_of(replica))["down"] == "no answer"

    asyncio.run(run())


def test_a_stream_that_breaks_has_the_engine_looked_at():
    async def run():
        async with serving() as (engine, replica):
            with pytest.raises(EngineLostError):
                await answers(replica, completion("cut", stream=True))
            async with asyncio.timeout(5):
                while len(engine.asked) < 2:
                    await asyncio.sleep(0.01)
            assert engine.asked[1][1]["prompt"] == "."
            assert replica._watch.down is None

    asyncio.run(run())


def test_every_rank_has_an_engine_of_its_own_and_follows_its_rank(without_a_fleet):
    async def run():
        async with scripted_engine() as one, scripted_engine() as two:
            without_a_fleet.rank = 3  # while an older replica is still there
            replica = await started([one.url, two.url])
            assert replica._endpoint.url == two.url
            await replica.reconfigure(None, SimpleNamespace(rank=1))
            assert replica._endpoint.url == two.url
            await replica.reconfigure(None, SimpleNamespace(rank=0))
            assert (await engine_of(replica))["url"] == one.url
            await replica.check_health()
            await stop(replica)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("attach", "message"),
    [
        ({"model": "mine"}, "serves theirs, not mine"),
        ({"max_model_len": 1024}, r"takes 512 tokens .*set it to 512"),
        ({"api_key_env": "DSPARK_TEST_NOT_SET"}, "DSPARK_TEST_NOT_SET is not set on"),
    ],
)
def test_it_does_not_start_before_an_engine_that_is_not_as_the_settings_say(attach, message):
    async def run():
        async with scripted_engine() as engine:
            await started(engine.url, **attach)

    with pytest.raises(ConfigError, match=message):
        asyncio.run(run())


def test_a_context_that_nobody_tells_has_to_be_set():
    async def run(**attach):
        async with scripted_engine() as engine:
            engine.models = [{"id": "theirs"}]
            replica = await started(engine.url, **attach)
            await stop(replica)
            return replica._most_tokens

    with pytest.raises(ConfigError, match=r"set attach\.max_model_len"):
        asyncio.run(run())
    assert asyncio.run(run(max_model_len=64)) == 64


def test_counters_that_move_are_a_sign_of_life():
    async def run():
        async with serving() as (engine, replica):
            replica._watch.saw_result = lambda: seen.append(1)
            seen = []
            await replica._report()
            assert seen == []
            engine.metrics = engine.metrics.replace("1.2e+02", "1.3e+02")
            await replica._report()
            assert seen == [1]

    asyncio.run(run())
