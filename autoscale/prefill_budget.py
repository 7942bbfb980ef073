"""How many prompt tokens may share a step with requests that decode.

A long prompt read at once makes everybody's next token late; read in small pieces its own first
one. Between two bounds it is as much as leaves the tightest promise kept, by a line through
what steps with prompt tokens have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

_MEMORY = 0.98  # of what was seen, per step
_MARGIN = 0.9  # of the promise, that a step may take
_LEAST_STEPS = 8.0  # with prompt tokens, before what was seen counts


@dataclass(frozen=True, slots=True)
class PrefillBounds:
    """Prompt tokens in a step beside decoding requests."""

    least: int
    most: int


class PrefillBudget:
    """Learns from every step. A step is at most as slow as its slowest request may be served."""

    def __init__(self, bounds: PrefillBounds) -> None:
        self._bounds = bounds
        self._plain_s = 0.0  # a step that reads no prompt
        self._extra_s = 0.0  # beyond it, of steps that do, faded
        self._tokens = 0.0  # that they read
        self._steps = 0.0

    def record(self, step_s: float, prefill_tokens: int) -> None:
        """A step beside decoding requests took so long."""
        if not prefill_tokens:
            self._plain_s += (1 - _MEMORY) * (step_s - self._plain_s) if self._plain_s else step_s
            return
        self._extra_s = _MEMORY * self._extra_s + max(step_s - self._plain_s, 0.0)
        self._tokens = _MEMORY * self._tokens + prefill_tokens
        self._steps = _MEMORY * self._steps + 1

    def tokens(self, tpot_s: float) -> int:
        """For requests of which the tightest promise is `tpot_s`."""
        least, most = self._bounds.least, self._bounds.most
        if math.isinf(tpot_s) or self._steps < _LEAST_STEPS or self._extra_s <= 0:
            return most
        per_token_s = self._extra_s / self._tokens
        return int(min(max((_MARGIN * tpot_s - self._plain_s) / per_token_s, least), most))


def tightest_s(
    tpot_s: Mapping[str, float],
    *,
    decoding: Iterable[str],
    reading: Iterable[str],
    weights: Mapping[str, float],
) -> float:
    """The tightest promise of the classes that decode; infinite where there is none.

    `weights` are the plan's: above 1 for a class that falls short over the whole fleet. Beside
    prompts of classes that do so less its promise counts as tighter, by as much as it weighs
    more. Nobody's counts as looser than it is.
    """
    prompts = max((weights.get(name, 1.0) for name in reading), default=1.0)
    return min(
        (
            tpot_s.get(name, math.inf) / max(weights.get(name, 1.0) / prompts, 1.0)
            for name in set(decoding)
        ),
        default=math.inf,
    )
