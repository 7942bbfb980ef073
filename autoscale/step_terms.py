"""What a plan means for one step's schedule. Simulated and served replicas both ask here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from autoscale.plan import ReplicaPlan
from autoscale.policies import StepTerms


def step_terms(
    plan: ReplicaPlan,
    num_requests: int,
    *,
    unread_tokens: int,
    max_step_tokens: int,
    max_requests: int,
    weights: NDArray[np.float64] | None = None,
    drafted: slice | NDArray[np.int64] = slice(None),
) -> StepTerms:
    """The terms of a step of `num_requests`.

    `unread_tokens` of prompts are seated here and still to be read; a step computes at most
    `max_step_tokens` of `max_requests`, whatever a plan expects. `weights` [R] are those of all
    requests, None where all weigh 1, and `drafted` the rows among them that have drafts.
    """
    forecast = round(plan.expected_prefill_tokens or 0.0)
    prefill_tokens = min(max(unread_tokens, forecast), max_step_tokens)
    expected = min(round(plan.expected_requests or 0.0), max_requests)
    joining = max(0, expected - num_requests)
    if weights is None:
        return StepTerms(prefill_tokens=prefill_tokens, joining_requests=joining)
    of_drafted = weights[drafted]
    all_drafted = len(of_drafted) == len(weights)
    plain = 0.0 if all_drafted else float(weights.sum() - of_drafted.sum())
    return StepTerms(of_drafted, plain, prefill_tokens, joining)


def request_weights(
    class_weights: Mapping[str, float], classes: Sequence[str]
) -> NDArray[np.float64] | None:
    """Weights [R] of requests by their service classes; None where all weigh 1."""
    weights = [class_weights.get(name, 1.0) for name in classes]
    if all(weight == 1.0 for weight in weights):
        return None
    return np.array(weights)
