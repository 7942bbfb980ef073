"""Mends for defects of vLLM 0.29 that break exactness on CPU."""

from __future__ import annotations

from typing import Any

import torch


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """Repeat each request's value for each of its tokens: `[R]` to `[num_tokens]`.

    vLLM's CPU kernel writes into an int64 temporary and never copies it back, so the
    temperature, top-k and top-p of draft positions are whatever memory held.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    expanded = x.repeat_interleave(counts.long(), output_size=num_tokens)
    if replace_from == replace_to:
        return expanded
    return torch.where(expanded == replace_from, torch.full_like(expanded, replace_to), expanded)


def mend_cpu_rejection_sampler(rejection_sampler: Any) -> None:
    """Put the mended `expand_batch_to_tokens` into vLLM's `rejection_sampler` module."""
    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
