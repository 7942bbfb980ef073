"""What a draft step takes beside the least that it could, also of drafters without weights."""

from __future__ import annotations

import statistics
import timeit
from collections.abc import Callable, Mapping
from typing import Any

import torch

from drafters.checkpoint import random_model
from drafters.dspark import DSparkModel
from drafters.engine import DraftEngine
from drafters.floor import bytes_read, read_bandwidth
from drafters.interface import DraftInputs

_BLOCK_TOKENS = 32
_WARM_UP, _REPEATS = 3, 50


def random_engine(
    fields: Mapping[str, Any],
    *,
    device: torch.device,
    dtype: torch.dtype,
    num_sessions: int,
    num_context_tokens: int,
) -> DraftEngine:
    """An engine for the drafter that `fields` describe, with random weights and room for all."""
    model = random_model(fields, None, seed=0, dtype=dtype, device=device)
    blocks_per_session = num_context_tokens // _BLOCK_TOKENS + 2
    return DraftEngine(
        model,
        num_blocks=num_sessions * blocks_per_session,
        block_tokens=_BLOCK_TOKENS,
        num_context_tokens=num_context_tokens,
    )


@torch.inference_mode()
def heads_ms(model: DSparkModel, num_sessions: int) -> tuple[float, float]:
    """Median milliseconds of a greedy draft behind the backbone: the LM head over all positions,
    and the serial head with what chooses tokens and says how sure it is."""
    device, config = model.device, model.config
    zeros = torch.zeros(num_sessions, dtype=torch.int64, device=device)
    nothing = torch.empty(0, device=device)
    inputs = DraftInputs(zeros, zeros, nothing, nothing, nothing)
    hidden = torch.randn(
        *(num_sessions, config.num_slots, config.hidden_size), dtype=model.dtype, device=device
    )

    def lm_head() -> None:
        model.logits(hidden[:, -config.block_size :])[0, 0, 0].item()  # waits for the device

    def all_heads() -> None:
        model.draft_from(hidden, inputs).tokens.cpu()

    lm_ms, all_ms = (_median_ms(run) for run in (lm_head, all_heads))
    return lm_ms, all_ms - lm_ms


def _median_ms(run: Callable[[], object]) -> float:
    times = timeit.repeat(run, number=1, repeat=_WARM_UP + _REPEATS)
    return 1000 * statistics.median(times[_WARM_UP:])


def latency_table(
    engine: DraftEngine, num_context_tokens: int, times_ms: Mapping[int, float]
) -> list[str]:
    """Lines: milliseconds by number of sessions and, for DSpark drafters, those of the heads
    among them and the least possible."""
    rows = {"sessions": [f"{count:>7}" for count in times_ms]}
    rows["ms"] = [f"{ms:>7.2f}" for ms in times_ms.values()]
    title = f"draft step, a full window of {num_context_tokens} tokens each"
    if isinstance(engine.model, DSparkModel):
        heads = [heads_ms(engine.model, count) for count in times_ms]
        for name, values in zip(("LM-head", "serial"), zip(*heads, strict=True), strict=True):
            rows[name] = [f"{ms:>7.2f}" for ms in values]
        bandwidth = read_bandwidth(engine.model.device)
        title += f"; floor: weights and context read at {bandwidth / 1e9:.0f} GB/s"
        needed = [bytes_read(engine.model, count, num_context_tokens) for count in times_ms]
        rows["floor"] = [f"{1000 * num_bytes / bandwidth:>7.2f}" for num_bytes in needed]
    return [f"{title}:", *(f"  {name:<8} {' '.join(cells)}" for name, cells in rows.items())]
