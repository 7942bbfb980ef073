"""What steps really take in a simulation, and what policies are told they take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from autoscale.draft_cost import DraftCost
from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import costs_of
from profiles.step_cost import StepCostProfile

_ALONE = 0.5  # of a step in service: an assumption, as the demo's engine finds it


@dataclass(frozen=True)
class SimulatedCosts:
    """Seconds of steps and drafts from a profile.

    With `padding` above 1, steps are as long as ones of the next multiple of so many tokens:
    the cost is jagged. Drafters are `drafter_slowdown` times slower than the profile says.
    """

    table: StepCostTable
    drafts_s: Mapping[int, float]
    padding: int = 1
    drafter_slowdown: float = 1.0

    @classmethod
    def of(
        cls, profile: StepCostProfile, padding: int = 1, drafter_slowdown: float = 1.0
    ) -> SimulatedCosts:
        """Raises ValueError where the profile has too few verifying steps."""
        return cls(*costs_of(profile), padding, drafter_slowdown)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_drafts_at", cache(DraftCost(self.drafts_s).at))

    def step_s(self, n_tokens: int, num_requests: int, context_tokens: int) -> float:
        padded = -(-n_tokens // self.padding) * self.padding
        table = self.table
        return table.at_one(padded) + table.beside_s(n_tokens, num_requests, context_tokens)

    def draft_s(self, num_requests: int) -> float:
        known_s: float = self._drafts_at(num_requests)  # type: ignore[attr-defined]
        return self.drafter_slowdown * known_s

    @property
    def at_start(self) -> StepCostTable:
        """What an engine that has just started says: forward passes alone, on an idle machine."""
        told = self.told
        return StepCostTable(told.n_tokens, tuple(_ALONE * cost for cost in told.step_cost_s))

    @property
    def told(self) -> StepCostTable:
        """The table that policies start from: the true costs at its own sizes."""
        known = self.table.n_tokens
        costs_s = [self.step_s(n, 1, 0) for n in known]
        return StepCostTable(known, tuple(np.maximum.accumulate(costs_s).tolist()))
