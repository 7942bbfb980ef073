"""The causal verify schedule: which draft tokens are worth verifying at the current load.

Draft tokens are taken in the order of their survival probability for as long as each
raises the expected tokens per second of the step (design section 6). Whether a token is
taken depends on nothing but survival probabilities at least as large as its own, hence
never on the token itself or on what follows it: sampled requests stay exact.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from autoscale.step_cost import StepCostTable


def causal_lengths(
    confidences: NDArray[np.float64],
    limits: NDArray[np.int64],
    envelope: StepCostTable,
    beyond_s: float,
    num_plain: int = 0,
) -> NDArray[np.int64]:
    """Draft tokens to verify per request, int64 [R].

    `confidences` [R, gamma] are P(token k accepted | those before it), `limits` [R] the
    most a request can take, `envelope` the convex cost of a step, `beyond_s` what else a step
    takes, drafting included, and `num_plain` the requests without drafts in it. On a
    convex cost the objective has one peak, so stopping at the first token that does not
    raise it finds the best schedule.
    """
    rows, gamma = confidences.shape
    if not rows:
        return np.zeros(0, dtype=np.int64)
    survival = np.cumprod(confidences, axis=1)
    survival[np.arange(gamma) >= limits[:, None]] = 0.0
    order = np.argsort(-survival, axis=None, kind="stable")  # ties by request, then position
    num_requests = rows + num_plain
    expected = num_requests + np.concatenate(([0.0], np.cumsum(survival.flat[order])))
    cost_s = envelope.at(num_requests + np.arange(rows * gamma + 1)) + beyond_s
    rate = expected / cost_s
    falls = np.flatnonzero(rate[1:] <= rate[:-1])
    taken = order[: falls[0] if len(falls) else rows * gamma]
    return np.bincount(taken // gamma, minlength=rows)
