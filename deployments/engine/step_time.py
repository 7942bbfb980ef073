"""What a target step costs on this machine, measured on the engine that will serve."""

from __future__ import annotations

import statistics
import time
from typing import Any

from autoscale.step_cost import StepCostTable

N_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_REPEATS = 5


def measure_step_cost(runner: Any) -> StepCostTable:
    """Medians of forward passes with logits for every token, as verification needs them.

    `runner` is a loaded vLLM model runner. Attention to a context is left out: what steps
    in service take beyond the table is learned there.
    """
    limit = max(2, runner.scheduler_config.max_num_batched_tokens)
    n_tokens = tuple(n for n in N_TOKENS if n <= limit)
    return StepCostTable(n_tokens, tuple(_step_s(runner, n) for n in n_tokens))


def _step_s(runner: Any, n_tokens: int) -> float:
    times_s = []
    for _ in range(_REPEATS + 1):  # the first warms up
        began = time.perf_counter()
        hidden, _ = runner._dummy_run(n_tokens)
        runner.model.compute_logits(hidden[:n_tokens])
        times_s.append(time.perf_counter() - began)
    return statistics.median(times_s[1:])
