"""An attached engine is looked at before it serves: its list of models, a token, its metrics."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import pytest

from deployments.attach.endpoint import Endpoint
from deployments.attach.engine_metrics import EngineReading
from deployments.errors import ConfigError, EngineLostError
from tests.unit.deployments.attach.scripted_engine import scripted_engine


@asynccontextmanager
async def endpoint_of(engine, model="theirs", key=None):
    endpoint = Endpoint(engine.url, model, key)
    try:
        yield endpoint
    finally:
        await endpoint.close()


def looked_at(look, model="theirs", key=None, **said):
    async def run():
        async with scripted_engine() as engine, endpoint_of(engine, model, key) as endpoint:
            vars(engine).update(said)
            return await look(endpoint)

    return asyncio.run(run())


def test_the_card_of_the_model_is_found():
    assert looked_at(Endpoint.card)["max_model_len"] == 512


@pytest.mark.parametrize(
    ("said", "model", "message"),
    [
        ({}, "mine", r"serves theirs, not mine; name one of them in attach\.model"),
        ({"models": []}, "mine", "serves nothing, not mine"),
        ({"models": [7]}, "mine", "no list of models"),
        ({"asks_for": "secret"}, "theirs", r"asks for an API key .*attach\.api_key_env"),
    ],
)
def test_an_endpoint_that_serves_another_model_is_refused(said, model, message):
    with pytest.raises(ConfigError, match=message):
        looked_at(Endpoint.card, model, **said)


def test_a_key_is_shown():
    assert looked_at(Endpoint.card, key="secret", asks_for="secret")["id"] == "theirs"


def test_one_that_does_not_listen_is_waited_for_and_then_refused():
    async def run():
        endpoint = Endpoint("http://127.0.0.1:9", "theirs", None)
        try:
            await endpoint.wait(0.0)
        finally:
            await endpoint.close()

    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 does not answer .*attach\.wait_s"):
        asyncio.run(run())


def test_a_probe_is_one_token_of_the_model():
    async def run():
        async with scripted_engine() as engine, endpoint_of(engine) as endpoint:
            await endpoint.find_probe(1.0)
            await endpoint.probe(1.0)
            return engine.asked

    asked = asyncio.run(run())
    assert [path for path, _ in asked] == ["/v1/completions"] * 2
    assert asked[1][1] == {"prompt": ".", "max_tokens": 1, "temperature": 0, "model": "theirs"}


def test_an_engine_that_gives_no_token_is_refused_and_one_that_hangs_is_lost():
    async def run():
        async with scripted_engine() as engine, endpoint_of(engine) as endpoint:
            await endpoint.find_probe(1.0)
            engine.hangs = True
            with pytest.raises(EngineLostError, match=r"no answer in 0\.2 s"):
                await endpoint.probe(0.2)
            await endpoint.find_probe(0.2)

    with pytest.raises(ConfigError, match="gives no token of it; /v1/completions: no answer"):
        asyncio.run(run())


def test_metrics_are_read_or_it_is_said_why_there_are_none():
    assert isinstance(looked_at(Endpoint.metrics), EngineReading)
    assert "--enable-metrics" in looked_at(Endpoint.metrics, metrics=None)
    assert "nothing there is of vLLM" in looked_at(Endpoint.metrics, metrics="up 1\n")


def test_all_that_is_under_way_can_be_ended_and_the_endpoint_goes_on():
    async def run():
        async with scripted_engine() as engine, endpoint_of(engine) as endpoint:

            async def ask():
                async with endpoint.post("/v1/completions", {"prompt": "mute"}, {}) as reply:
                    await reply.read()

            asking = asyncio.create_task(ask())
            while not engine.asked:
                await asyncio.sleep(0.01)
            await endpoint.drop_all()
            with pytest.raises(aiohttp.ClientError):
                await asyncio.wait_for(asking, 5)
            await endpoint.find_probe(1.0)

    asyncio.run(run())
