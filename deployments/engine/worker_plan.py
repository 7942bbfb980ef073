"""What a target replica hands to its worker after an exchange, and how long its advice holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.plan_check import plan_from_plain


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Plain values alone: they cross vLLM's processes.

    `advice` is a `ReplicaPlan` as a dict and ends after `advice_s`; everything else stands
    until the next plan. `calibrations` and `step_cost` are as in `cluster.messages`,
    `canary` is a `CanaryOrder`, None where none runs.
    """

    drafter_address: str | None = None
    secret: str = ""
    drafter_key: str | None = None
    controls: dict[str, Any] = field(default_factory=dict)
    calibrations: dict[str, Any] = field(default_factory=dict)
    step_cost: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    advice: dict[str, Any] = field(default_factory=dict)
    advice_s: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> WorkerPlan:
        """Raises ValueError naming fields that are not a plan's."""
        unknown = sorted(plain.keys() - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"a plan has no {', '.join(unknown)}")
        return cls(**plain)


class AdviceInForce:
    """The advice that an adapter goes by: the last one taken, until its time is up. From then on
    local rules decide. `clock` is in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._advice = NO_PLAN
        self._until_s = 0.0

    def take(self, plain: Mapping[str, Any], holds_s: float) -> int:
        """From now on; returns how many fields of it could not be followed."""
        advice, refused = plan_from_plain(plain)
        self._advice = advice if holds_s > 0 else NO_PLAN
        self._until_s = self._clock() + holds_s
        return len(refused)

    def current(self) -> ReplicaPlan:
        """What to go by in this step."""
        if self._clock() > self._until_s:
            self._advice = NO_PLAN
        return self._advice
