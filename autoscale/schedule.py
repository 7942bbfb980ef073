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
    worth: NDArray[np.float64] = np.cumprod(confidences, axis=1, dtype=np.float64)
    gamma = confidences.shape[1]
    if len(limits) and int(limits.min()) < gamma:
        worth[np.arange(gamma) >= limits[:, None]] = 0.0
    if weights is not None:
        worth *= weights[:, None]
    return worth


def expected_by_budget(worth: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """W + S_k for k = 0 to all draft tokens; `weight` is W, that of all requests."""
    expected = np.empty(worth.size + 1)
    expected[0] = weight
    expected[1:] = -worth.ravel()
    expected[1:].sort()
    np.negative(expected[1:], out=expected[1:])
    return np.cumsum(expected, out=expected)


def causal_budget(expected: NDArray[np.float64], cost_s: NDArray[np.float64]) -> int:
    """The draft tokens before the first that does not raise the ratio."""
    rate = expected / cost_s
    falls = rate[1:] <= rate[:-1]
    return int(falls.argmax()) if falls.any() else len(falls)


def best_budget(expected: NDArray[np.float64], cost_s: NDArray[np.float64]) -> int:
    """The smallest budget with the highest ratio, wherever it is."""
    return int((expected / cost_s).argmax())


def admit_most_worth(worth: NDArray[np.float64], budget: int) -> NDArray[np.int64]:
    """Lengths [R] that admit the `budget` draft tokens of highest worth, none of worth 0."""
    rows, gamma = worth.shape
    if budget <= 0 or not rows:
        return np.zeros(rows, dtype=np.int64)
    flat = worth.ravel()
    budget = min(budget, flat.size)
    least = np.partition(flat, flat.size - budget)[flat.size - budget]
    above = worth > max(least, 0.0)
    lengths: NDArray[np.int64] = np.count_nonzero(above, axis=1)
    num_tied = budget - int(lengths.sum())
    if least > 0.0 and num_tied:
        tied = np.flatnonzero(flat == least)[:num_tied]
        lengths += np.bincount(tied // gamma, minlength=rows)
    return lengths


def causal_lengths(
    worth: NDArray[np.float64], weight: float, cost_s: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Lengths [R] of the causal schedule; `weight` is W, `cost_s` convex, [R * gamma + 1]."""
    return admit_most_worth(worth, causal_budget(expected_by_budget(worth, weight), cost_s))


def threshold_lengths(
    confidences: NDArray[np.float64], limits: NDArray[np.int64], least_survival: float
) -> NDArray[np.int64]:
    """Lengths [R] that admit every draft token which survives with `least_survival` or more."""
    survival = token_worth(confidences, limits)
    admitted: NDArray[np.int64] = np.count_nonzero(
        (survival >= least_survival) & (survival > 0.0), axis=1
    )
    return admitted
