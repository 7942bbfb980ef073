"""Which draft tokens a step verifies: a prefix of every draft (DSpark paper, section 3.2.2).

Every draft token is worth its survival probability times its request's weight, and draft
tokens are taken in that order, ties by request, then position. Worth falls along a draft, so
what is taken of it is a prefix. How many are taken is the budget; it maximises

    (W + S_k) / cost_s[k]

with W the weight of all requests, S_k the worth of the k best draft tokens, and cost_s[k] the
seconds of the step with them. S is concave; on a convex cost the ratio has one peak, and the
first token that does not raise it ends the search. Whether a token is taken then depends on
nothing but worths at least as large as its own, hence never on the token itself or on what
follows it: sampled requests stay exact (design section 5, rule 1). `best_budget` searches
everywhere, so it may be given only what was known before the drafts were drawn.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def token_worth(
    confidences: NDArray[np.float64],
    limits: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Weighted survival probabilities, float64 [R, gamma]; 0 beyond a request's limit.

    `confidences` [R, gamma] are P(token k accepted | those before it), `limits` [R] the
    most draft tokens a request can take, `weights` [R] positive (missing: 1 each).
    """
    worth: NDArray[np.float64] = np.multiply.accumulate(confidences, axis=1, dtype=np.float64)
    gamma = confidences.shape[1]
    if len(limits) and int(limits.min()) < gamma:
        np.putmask(worth, np.arange(gamma) >= limits[:, None], 0.0)
    if weights is not None:
        worth *= weights[:, None]
    return worth


def expected_by_budget(worth: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """W + S_k for k = 0 to all draft tokens; `weight` is W, that of all requests."""
    return _expected(_falling(worth), weight)


def causal_budget(expected: NDArray[np.float64], cost_s: NDArray[np.float64]) -> int:
    """The draft tokens before the first that does not raise the ratio."""
    rate = expected / cost_s
    falls = rate[1:] <= rate[:-1]
    if not len(falls):
        return 0
    first = int(falls.argmax())
    return first if falls[first] else len(falls)


def best_budget(expected: NDArray[np.float64], cost_s: NDArray[np.float64]) -> int:
    """The smallest budget with the highest ratio, wherever it is."""
    return int((expected / cost_s).argmax())


def admit_most_worth(worth: NDArray[np.float64], budget: int) -> NDArray[np.int64]:
    """Lengths [R] that admit the `budget` draft tokens of highest worth, none of worth 0."""
    if budget <= 0 or not worth.size:
        return np.zeros(len(worth), dtype=np.int64)
    flat = worth.ravel()
    budget = min(budget, flat.size)
    return _admit_down_to(float(np.partition(flat, -budget)[-budget]), worth, budget)


def causal_lengths(
    worth: NDArray[np.float64], weight: float, cost_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Lengths [R] of the causal schedule; `weight` is W, `cost_s` convex, [R * gamma + 1]."""
    falling = _falling(worth)
    budget = causal_budget(_expected(falling, weight), cost_s)
    if not budget:
        return np.zeros(len(worth), dtype=np.int64)
    least = float(falling[budget - 1])
    if least > 0.0 and (budget == len(falling) or falling[budget] < least):
        return _prefix_lengths(worth >= least)
    return _admit_down_to(least, worth, budget)


def threshold_lengths(
    confidences: NDArray[np.float64], limits: NDArray[np.int64], least_survival: float
) -> NDArray[np.int64]:
    """Lengths [R] that admit every draft token which survives with `least_survival` or more."""
    survival = token_worth(confidences, limits)
    return _prefix_lengths((survival >= least_survival) & (survival > 0.0))


def _falling(worth: NDArray[np.float64]) -> NDArray[np.float64]:
    """All worths, the highest first, [R * gamma]."""
    rising = worth.flatten()
    rising.sort()
    return rising[::-1]


def _expected(falling: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    expected = np.empty(len(falling) + 1)
    expected[0] = weight
    expected[1:] = falling
    return np.add.accumulate(expected, out=expected)


def _admit_down_to(least: float, worth: NDArray[np.float64], budget: int) -> NDArray[np.int64]:
    """Lengths [R] of the `budget` best draft tokens, of which `least` is the last one's worth."""
    if least <= 0.0:
        return _prefix_lengths(worth > 0.0)
    lengths = _prefix_lengths(worth >= least)
    surplus = int(lengths.sum()) - budget
    if surplus:  # ties go by request, then position: the last of them stay out
        rows, gamma = worth.shape
        tied = np.flatnonzero(worth.ravel() == least)[-surplus:]
        lengths -= np.bincount(tied // gamma, minlength=rows)
    return lengths


def _prefix_lengths(taken: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Lengths [R] of what is taken of every draft, bool [R, gamma]: a prefix of each."""
    lengths: NDArray[np.int64] = taken.argmin(axis=1)  # the first that is not, 0 where all are
    lengths[taken[:, -1]] = taken.shape[1]
    return lengths
