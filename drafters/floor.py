"""How fast a draft can be at best: the bytes it reads, at the bandwidth of the memory.

At the few rows of a draft the arithmetic is free and weights and context have to come from
memory, whatever is done with them. Nothing is assumed to stay in a cache: a drafter that fits
into one may be faster.
"""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

from drafters.dspark import DSparkModel

_CPU_BYTES, _CUDA_BYTES = 256 << 20, 2 << 30  # more than any cache holds
_REPEATS = 7


def bytes_read(model: DSparkModel, num_sessions: int, num_context_tokens: int) -> int:
    """Bytes of weights and context that one draft of `num_sessions` full windows reads.

    Weights count once, however many sessions share them, but for the serial head's: a token
    waits for the one before it, so they come once per token. Of embeddings a draft looks up
    single rows, which are left out, as is everything that is written.
    """
    embeddings = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    heads = {model.lm_head.weight}  # may be the embedding itself, and is read whole
    weights = {p for p in model.parameters() if p not in embeddings or p in heads}
    serial = set(() if model.markov_head is None else model.markov_head.parameters()) & weights
    per_token = model.serving().layout.bytes_per_token
    return (
        sum(p.nbytes for p in weights - serial)
        + model.config.block_size * sum(p.nbytes for p in serial)
        + num_sessions * num_context_tokens * per_token
    )


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second that summing a large tensor reads, median of a few times."""
    num_bytes = _CUDA_BYTES if device.type == "cuda" else _CPU_BYTES
    numbers = torch.ones(num_bytes // 4, dtype=torch.float32, device=device)
    times = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        numbers.sum().item()  # waits for the device
        times.append(time.perf_counter() - began)
    return numbers.nbytes / statistics.median(times)
