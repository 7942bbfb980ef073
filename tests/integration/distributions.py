"""Answers drawn by an engine, and whether those drawn in two ways have one distribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_SHUFFLES = 300
MOST_DEVIATIONS = 4.5

Draws = Sequence[tuple[int, ...]]  # the first tokens of every answer, of each as many


def first_three(
    engine: Any, prompt: str, draws: int, *, temperature: float, n: int = 1
) -> list[tuple[int, ...]]:
    """The first three tokens of `draws` answers, `n` a request; three more are drawn behind them,
    for there to be drafts of all three."""
    from vllm import SamplingParams  # slow, and not every user has an engine

    params = SamplingParams(temperature=temperature, max_tokens=6, ignore_eos=True, n=n)
    chat = [{"role": "user", "content": prompt}]
    answers = engine.chat([chat] * (draws // n), params, use_tqdm=False)
    return [tuple(output.token_ids[:3]) for answer in answers for output in answer.outputs]


def are_alike(pairs: Sequence[tuple[Draws, Draws]]) -> bool:
    """A permutation test: whether the first draws of every pair lie as near to the second as a
    random part of all draws lies to the rest, over all pairs and lengths together.

    What random parts show is a sum of many small distances, near to a normal distribution: true
    ones lie `MOST_DEVIATIONS` off their mean a few times in a million, so that a suite which
    asks often is not wrong once a year.
    """
    rng = np.random.default_rng(0)
    apart = np.zeros(NUM_SHUFFLES + 1)
    for first, second in pairs:
        for end in range(1, len(first[0]) + 1):
            known: dict[tuple[int, ...], int] = {}
            outcomes = [known.setdefault(t[:end], len(known)) for t in (*first, *second)]
            shuffled = np.tile(outcomes, (NUM_SHUFFLES + 1, 1))
            rng.permuted(shuffled[1:], axis=1, out=shuffled[1:])
            apart += [_parted(one, len(first)) for one in shuffled]
    by_chance = apart[1:]
    return bool(apart[0] <= by_chance.mean() + MOST_DEVIATIONS * by_chance.std())


def _parted(outcomes: NDArray[np.int64], num_first: int) -> float:
    """Total variation between the first outcomes, counted from 0, and the others."""
    parts = (outcomes[:num_first], outcomes[num_first:])
    a, b = (np.bincount(part, minlength=outcomes.max() + 1) / len(part) for part in parts)
    return float(0.5 * np.abs(a - b).sum())
