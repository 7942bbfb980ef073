"""How much of what was drafted is accepted: acceptance length, and acceptance by position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from profiles.outcomes import Outcomes

CONTEXT_EDGES_TOKENS = tuple(256 << i for i in range(8))
"""256 to 32K: where one bucket of context positions ends and the next begins."""


class Acceptance(NamedTuple):
    """Of `num_drafts` drafts of `num_prompts` prompts.

    `length` is the acceptance length: tokens committed per target step that verified a
    draft, the bonus token included. `standard_error` is its own, over prompts; NaN for one
    prompt. `by_position` [gamma] is P(accepted | all earlier positions accepted), NaN where
    no draft got that far.
    """

    num_prompts: int
    num_drafts: int
    length: float
    standard_error: float
    by_position: tuple[float, ...]


def acceptance(outcomes: Outcomes) -> Acceptance:
    """Of all drafts together; every length NaN without any."""
    num_drafts = len(outcomes)
    prompts, prompt = np.unique(np.array(outcomes.prompt_ids, dtype=str), return_inverse=True)
    drafts = np.bincount(prompt, minlength=len(prompts))
    tokens = np.bincount(prompt, 1.0 + outcomes.num_accepted, minlength=len(prompts))
    length = float(tokens.sum() / num_drafts) if num_drafts else math.nan
    return Acceptance(
        num_prompts=len(prompts),
        num_drafts=num_drafts,
        length=length,
        standard_error=_ratio_error(tokens, drafts, length),
        by_position=conditional_acceptance(outcomes),
    )


def _ratio_error(tokens: NDArray[Any], drafts: NDArray[Any], ratio: float) -> float:
    """Standard error of sum(tokens) / sum(drafts), by linearisation over independent prompts.

    Drafts of one prompt are alike: taken one by one they would make the error look small.
    """
    n = len(drafts)
    if n < 2:
        return math.nan
    residuals = tokens - ratio * drafts
    return float(math.sqrt(n / (n - 1) * np.square(residuals).sum()) / drafts.sum())


def conditional_acceptance(outcomes: Outcomes) -> tuple[float, ...]:
    """Per position P(accepted | admitted, and all earlier positions accepted)."""
    rates = []
    for k in range(outcomes.block_size):
        tried = (outcomes.num_admitted > k) & (outcomes.num_accepted >= k)
        accepted = outcomes.num_accepted[tried] > k
        rates.append(float(accepted.mean()) if tried.any() else math.nan)
    return tuple(rates)


def macro_average(cells: Sequence[Acceptance]) -> Acceptance:
    """The plain mean over benchmarks, each of the same weight, with its standard error.

    A position's rate is the mean over benchmarks where any draft got that far.
    """
    errors = [cell.standard_error for cell in cells]
    return Acceptance(
        num_prompts=sum(cell.num_prompts for cell in cells),
        num_drafts=sum(cell.num_drafts for cell in cells),
        length=float(np.mean([cell.length for cell in cells])),
        standard_error=math.sqrt(sum(error**2 for error in errors)) / len(errors),
        by_position=tuple(map(_mean, zip(*(cell.by_position for cell in cells), strict=True))),
    )


def _mean(rates: Sequence[float]) -> float:
    """Of the rates that are defined."""
    defined = [rate for rate in rates if not math.isnan(rate)]
    return sum(defined) / len(defined) if defined else math.nan


def context_buckets(context_tokens: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bucket numbers [N]: b is at or behind the edge b - 1 and before the edge b."""
    return np.searchsorted(CONTEXT_EDGES_TOKENS, context_tokens, side="right")


def bucket_name(bucket: int) -> str:
    """`0-256`, `256-512`, ..., `32K-`."""
    names = [f"{edge // 1024}K" if edge >= 1024 else str(edge) for edge in CONTEXT_EDGES_TOKENS]
    return f"{['0', *names][bucket]}-{[*names, ''][bucket]}"
