"""What the meter is told of requests that pass vLLM's frontend."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from autoscale.fleet_load import ClassOutcomes
from autoscale.service_class import ServiceClass
from cluster.traffic_meter import TrafficMeter
from deployments.engine.metering import metered

PROMPT = {"prompt_token_ids": [1, 2, 3]}


def result(token_ids, finished=False, reason=None, first_token_s=0.0):
    output = SimpleNamespace(token_ids=token_ids, finish_reason=reason)
    metrics = SimpleNamespace(first_token_latency=first_token_s)
    return SimpleNamespace(outputs=[output], finished=finished, metrics=metrics)


def params(kind):
    return SamplingParams(output_kind=kind, extra_args={"dspark_class": "latency"})


def serve(meter, results, kind):
    async def generate(prompt, sampling_params):
        for one in results:
            yield one

    async def consume():
        return [r async for r in metered(generate, meter)(PROMPT, params(kind))]

    assert asyncio.run(consume()) == results
    return meter.take()


@pytest.fixture
def meter():
    return TrafficMeter((ServiceClass("latency", 1.0, 1.0),))


@pytest.mark.parametrize(
    ("kind", "results"),
    [
        (RequestOutputKind.DELTA, [result([5]), result([6, 7], finished=True)]),
        (RequestOutputKind.CUMULATIVE, [result([5]), result([5, 6, 7], finished=True)]),
        (RequestOutputKind.FINAL_ONLY, [result([5, 6, 7], finished=True)]),
    ],
)
def test_tokens_are_counted_once_however_they_come(meter, kind, results):
    traffic = serve(meter, results, kind)
    assert traffic.tokens_per_s * traffic.elapsed_s == pytest.approx(3)
    assert traffic.prompt_tokens_per_s * traffic.elapsed_s == pytest.approx(3)
    assert traffic.outcomes["latency"] == ClassOutcomes(1.0, 1.0)
    assert traffic.in_flight == 0


def test_an_aborted_request_leaves_and_says_nothing_of_promises(meter):
    aborted = [result([5], finished=True, reason="abort")]
    traffic = serve(meter, aborted, RequestOutputKind.DELTA)
    assert traffic.in_flight == 0
    assert traffic.outcomes["latency"] == ClassOutcomes()


def test_a_request_that_fails_leaves(meter):
    async def failing(prompt, sampling_params):
        yield result([5])
        raise RuntimeError("engine")

    async def consume():
        async for _ in metered(failing, meter)(PROMPT, params(RequestOutputKind.DELTA)):
            assert meter.take().in_flight == 1

    with pytest.raises(RuntimeError, match="engine"):
        asyncio.run(consume())
    assert meter.take().in_flight == 0
