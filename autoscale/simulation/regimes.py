"""The situations in which policies are compared."""

from __future__ import annotations

from dataclasses import dataclass, field

from autoscale.simulation.fleet import Faults
from autoscale.simulation.traces import Arrival, Rate, TraceShape


def steady(_: float) -> float:
    return 1.0


@dataclass(frozen=True, slots=True)
class Regime:
    """`load` is the mean arrival rate over what the whole fleet can serve.

    `rate` shapes it over the duration, 0 to 1, up to `peak`. `padded_tokens` makes the step
    cost jagged, `overconfidence` confidences too high (see `texts`), `num_drafters` a pool
    instead of a drafter beside every target, each `drafter_slowdown` times slower. A `trace`
    is replayed as it is, and then neither load nor rate count.
    """

    name: str
    load: float
    rate: Rate = steady
    peak: float = 1.0
    shape: TraceShape = field(default_factory=TraceShape)
    faults: Faults = field(default_factory=Faults)
    overconfidence: float = 0.0
    padded_tokens: int = 1
    num_drafters: int = 0
    drafter_slowdown: float = 1.0
    trace: tuple[Arrival, ...] = ()


def _bursts(share: float) -> float:
    """Four bursts of 2.2 times the load, in between 0.7 times."""
    return 2.2 if (share * 4) % 1.0 < 0.2 else 0.7


def _ramp(share: float) -> float:
    return 0.4 + 1.2 * share


REGIMES: tuple[Regime, ...] = (
    *(Regime(f"load {load}%", load / 100) for load in (30, 60, 80, 90, 100, 120)),
    Regime("bursts", 0.7, _bursts, 2.2),
    Regime("ramp 30% to 120%", 0.75, _ramp, 1.6),
    Regime("replica lost", 0.8, faults=Faults(loss_at=0.4)),
    Regime("slow node", 0.7, faults=Faults(slow_node=2.0)),
    Regime("drafter pool saturated", 0.6, num_drafters=1, drafter_slowdown=3.0),
    Regime("drafter lost", 0.8, num_drafters=4, faults=Faults(drafter_loss_at=0.3)),
    Regime("autoscaling lags", 0.9, faults=Faults(late_replicas=3, late_at=0.5)),
    Regime("overconfident drafter", 0.9, overconfidence=0.6),
    Regime("prefill-heavy", 0.9, shape=TraceShape(prompt_tokens=1500, output_tokens=60)),
    Regime("jagged cost", 0.9, padded_tokens=24),
)
"""Loads are of what the default policy serves with every seat taken."""
