"""What a target step costs by the tokens in it and the context behind them."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StepCostTable:
    """Seconds per target step, `step_cost_s`, at rising numbers of tokens, `n_tokens`.

    Between two entries the cost is linear; beyond the last it goes on with the last slope.
    What requests and their context add is not in the entries, see `under`: `request_s` per
    request, `context_token_s` per token of all their context together, and `pair_s` per pair
    of a computed token and a context token it attends to. Raises ValueError for fewer than
    two entries, entries that do not rise, or negative costs.
    """

    n_tokens: tuple[int, ...]
    step_cost_s: tuple[float, ...]
    request_s: float = 0.0
    context_token_s: float = 0.0
    pair_s: float = 0.0

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in pairwise(self.n_tokens))
        matching = len(self.n_tokens) == len(self.step_cost_s) >= 2
        if not (matching and rising and self.n_tokens[0] >= 1 and min(self.step_cost_s) > 0):
            raise ValueError(
                f"step costs {self.step_cost_s} at {self.n_tokens} tokens: needed are two or "
                "more positive costs at rising numbers of tokens, 1 or more"
            )
        if not min(self.request_s, self.context_token_s, self.pair_s) >= 0:
            raise ValueError("what requests and context add to a step cannot be negative")

    def beside_s(self, n_tokens: int, num_requests: int, context_tokens: float) -> float:
        """Seconds that requests and their context add; `context_tokens` are all of theirs."""
        pairs = n_tokens * context_tokens / (num_requests or 1)
        return (
            self.request_s * num_requests
            + self.context_token_s * context_tokens
            + self.pair_s * pairs
        )

    def under(self, num_requests: int, context_tokens: float) -> StepCostTable:
        """The costs of steps of these requests with this context together, as one table."""
        return StepCostTable(
            self.n_tokens,
            tuple(
                cost_s + self.beside_s(n, num_requests, context_tokens)
                for n, cost_s in zip(self.n_tokens, self.step_cost_s, strict=True)
            ),
        )

    def at(self, n_tokens: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of steps of `n_tokens`, any shape."""
        known_n, known_s = self.n_tokens, self.step_cost_s
        inside = np.interp(n_tokens, known_n, known_s)
        slope = (known_s[-1] - known_s[-2]) / (known_n[-1] - known_n[-2])
        return np.asarray(inside + np.maximum(np.asarray(n_tokens) - known_n[-1], 0) * slope)

    def at_one(self, n_tokens: int) -> float:
        """Seconds of a step of `n_tokens`: `at` for one number, without arrays."""
        known_n, known_s = self.n_tokens, self.step_cost_s
        if n_tokens <= known_n[0]:
            return known_s[0]
        right = min(bisect_left(known_n, n_tokens), len(known_n) - 1)
        left = right - 1
        slope = (known_s[right] - known_s[left]) / (known_n[right] - known_n[left])
        return known_s[left] + slope * (n_tokens - known_n[left])

    def envelope(self) -> StepCostTable:
        """The largest convex table that nowhere costs more than this one.

        Costs that fall with more tokens are noise: they are levelled first, from the right.
        """
        levelled = np.minimum.accumulate(np.array(self.step_cost_s)[::-1])[::-1]
        hull: list[tuple[int, float]] = []
        for point in zip(self.n_tokens, levelled.tolist(), strict=True):
            while len(hull) >= 2 and not _turns_up(hull[-2], hull[-1], point):
                hull.pop()
            hull.append(point)
        n_tokens, step_cost_s = zip(*hull, strict=True)
        return replace(self, n_tokens=n_tokens, step_cost_s=step_cost_s)


def _turns_up(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    """Whether the slope from b to c exceeds that from a to b."""
    return (c[1] - b[1]) * (b[0] - a[0]) > (b[1] - a[1]) * (c[0] - b[0])


class CostCurve:
    """A table's costs written out per number of tokens: a schedule takes slices of it."""

    def __init__(self, table: StepCostTable) -> None:
        self._table = table
        self._cost_s = np.zeros(0)  # [tokens + 1], grown as needed

    def from_to(self, first: int, last: int) -> NDArray[np.float64]:
        """Seconds of steps of `first` to `last` tokens, both included. Not to be written to."""
        if last >= len(self._cost_s):
            self._cost_s = self._table.at(np.arange(2 * last + 1))
        return self._cost_s[first : last + 1]


def verify_cost_s(
    curve: CostCurve, num_requests: int, num_candidates: int, prefill_tokens: int = 0
) -> NDArray[np.float64]:
    """Seconds of a step by its draft tokens, 0 to `num_candidates`, prefill's share aside.

    max(T(R + k + p) - c * p, T(R + k)), design section 6: a step shared with p prompt tokens
    is long, and its length must not make draft tokens look free. c * p is what the p tokens add
    to a step without draft tokens.
    """
    alone_s = curve.from_to(num_requests, num_requests + num_candidates)
    if not prefill_tokens:
        return alone_s
    first = num_requests + prefill_tokens
    shared_s = curve.from_to(first, first + num_candidates)
    prefill_s = float(shared_s[0] - alone_s[0])
    cost_s: NDArray[np.float64] = np.maximum(shared_s - prefill_s, alone_s)
    return cost_s
