"""Prompts in pieces beside decoding requests, on a real engine: how large, and the same text."""

from __future__ import annotations

from typing import Any

import pytest
from vllm import SamplingParams

from autoscale.service_class import BEST_EFFORT
from deployments.prefill import with_prefill_control
from deployments.specs import PrefillSpec
from tests.integration.engines import make_engine

LONG = {"prompt_token_ids": [5 + i % 900 for i in range(300)]}
SHORT = {"prompt_token_ids": [7, 8, 9]}
GREEDY = SamplingParams(temperature=0, max_tokens=48, ignore_eos=True)


@pytest.fixture(scope="module")
def bounded() -> Any:
    overrides = with_prefill_control(
        {}, PrefillSpec(least=16, most=16), {"default": BEST_EFFORT}, drafts=True
    )
    return make_engine("off", async_scheduling=False, **overrides)


def run(engine: Any) -> tuple[dict[str, list[int]], list[tuple[int, int]]]:
    """A short prompt decodes, a long one comes: outputs, and per step prompt and other tokens."""
    inner = engine.llm_engine
    scheduler = inner.engine_core.engine_core.scheduler
    steps: list[tuple[int, int]] = []
    schedule = scheduler.schedule

    def watched(*args: Any, **kwargs: Any) -> Any:
        decoding = {one.request_id for one in scheduler.running if not one.is_prefill_chunk}
        output = schedule(*args, **kwargs)
        counts = output.num_scheduled_tokens
        prompt = sum(n for id_, n in counts.items() if id_ not in decoding)
        steps.append((prompt, sum(counts.values()) - prompt))
        return output

    scheduler.schedule = watched
    outputs: dict[str, list[int]] = {}
    engine.reset_prefix_cache()
    try:
        inner.add_request("short", SHORT, GREEDY)
        for _ in range(4):
            inner.step()
        inner.add_request("long", LONG, GREEDY)
        while inner.has_unfinished_requests():
            for result in inner.step():
                if result.finished:
                    outputs[result.request_id] = list(result.outputs[0].token_ids)
    finally:
        scheduler.schedule = schedule
    return outputs, steps


def test_a_long_prompt_comes_in_pieces_and_nobody_skips_a_step(bounded, plain):
    outputs, steps = run(bounded)
    assert outputs == run(plain)[0]
    pieces = [prompt for prompt, others in steps if prompt and others]
    assert pieces == [16] * 18 + [12]  # 300 tokens
    assert all(others for _, others in steps[1:])
