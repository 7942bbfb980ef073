"""`dspark measure` of drafters with random weights: the draft step beside its floor."""

from __future__ import annotations

import pytest
import torch

from deployments.catalog.qwen3 import QWEN3_4B
from deployments.measure import measure_shape
from drafters.latency import latency_table, random_engine
from drafters.measure import draft_times_ms
from tests.gpu.devices import DEVICES

# The 4B's drafter in small: its layers, heads, block and features.
SMALL = {"hidden_size": 64, "head_dim": 8, "intermediate_size": 96, "vocab_size": 512}


def numbers(line: str) -> list[float]:
    return [float(cell) for cell in line.split()[1:]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_small_drafter_of_the_same_make_is_measured(device):
    assert QWEN3_4B.drafter is not None
    engine = random_engine(
        {**QWEN3_4B.drafter.config, **SMALL, "mask_token_id": 3, "markov_rank": 16},
        device=torch.device(device),
        dtype=torch.bfloat16,
        num_sessions=8,
        num_context_tokens=64,
    )
    assert (engine.model.device.type, engine.model.dtype) == (device, torch.bfloat16)
    times = draft_times_ms(engine, 64, [1, 8], 3)
    assert (engine.num_sessions, engine.stats.evictions) == (0, 0)
    _, sessions, measured, *_ = latency_table(engine, 64, times)
    assert numbers(sessions) == [1, 8]
    assert min(numbers(measured)) > 0


@pytest.mark.parametrize("device", DEVICES[1:])
def test_the_4bs_drafter_for_1_8_and_64_sessions(device, capsys):
    """Five layers, hidden size 2,560, 151,936 tokens, blocks of 7. Prints what it measures."""
    report = measure_shape(
        "qwen3-4b",
        device=device,
        dtype="bfloat16",
        sessions=[1, 8, 64],
        num_context_tokens=512,
        repeats=50,
    )
    with capsys.disabled():
        print(f"\n{report}")
    _, _, sessions, measured, *_, floor = report.splitlines()
    assert numbers(sessions) == [1, 8, 64]
    assert min(numbers(measured)) > 0
    assert numbers(floor) == sorted(numbers(floor))
