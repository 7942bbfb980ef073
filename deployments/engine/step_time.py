"""What a target step costs on this machine, measured on the engine that will serve."""

from __future__ import annotations

import time
from typing import Any

import torch

from autoscale.step_cost import StepCostTable

N_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_ROUNDS = 12


def measure_step_cost(runner: Any) -> StepCostTable:
    """Times of forward passes with logits for every token, as verification needs them.

    `runner` is a loaded vLLM model runner. Each is the least of several, taken in turns:
    whoever else starts on this machine now will not be there later. Attention to a context
    is left out: what steps in service take beyond the table is learned there.
    """
    limit = max(2, runner.scheduler_config.max_num_batched_tokens)
    n_tokens = tuple(n for n in N_TOKENS if n <= limit)
    rounds = [[_step_s(runner, n) for n in n_tokens] for _ in range(_ROUNDS)]
    return StepCostTable(n_tokens, tuple(map(min, zip(*rounds, strict=True))))


def _step_s(runner: Any, n_tokens: int) -> float:
    began = time.perf_counter()
    hidden, _ = runner._dummy_run(n_tokens)
    runner.model.compute_logits(hidden[: _num_logits(runner, n_tokens)])
    if runner.device.type != "cpu":
        torch.accelerator.synchronize(runner.device)
    return time.perf_counter() - began


def _num_logits(runner: Any, n_tokens: int) -> int:
    """With LoRA adapters vLLM's dummy run is prepared for the logits of one token a request."""
    return n_tokens if runner.lora_config is None else min(n_tokens, runner.max_num_reqs)
