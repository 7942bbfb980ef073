"""How many replicas a pool of targets and its pool of drafters should have.

Pure, bounded, and without failure: whatever the numbers are, what comes out lies within the
bounds. How fast a pool follows (`upscale_delay_s`, `downscale_delay_s`) is Ray Serve's to
apply, as is that a replica which goes finishes its streams first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_LEAST_DEMAND = 0.01  # seats: what fades for ever is none by then
_SEATS_IN_USE = 0.8  # of those that keep promises, so that chance finds the rest
_DRAFTER_BUSY = 0.6
_DRAFTER_SATURATED = 0.85  # beyond which demand may be any
_SATURATED_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Bounds:
    least: int
    most: int

    def clamp(self, replicas: float) -> int:
        """A whole number of replicas within the bounds; `least` for what is no number."""
        if math.isnan(replicas):
            return self.least
        return int(min(max(replicas, self.least), self.most))


@dataclass(frozen=True, slots=True)
class TargetPool:
    """`demand_seats` are wanted of all its `current` replicas, of which one has
    `seats_per_replica` at which promises hold; both in seats as fast as the present ones."""

    current: int
    bounds: Bounds
    demand_seats: float
    seats_per_replica: float


@dataclass(frozen=True, slots=True)
class DrafterPool:
    """`busy` is the mean share of time that its `current` replicas draft, `wait_steps` how long
    what they are asked waits for its turn, in steps of theirs."""

    current: int
    bounds: Bounds
    busy: float
    wait_steps: float = 0.0

    @property
    def load(self) -> float:
        """The share of time that a replica is taken, as its work or the waits for it say.

        Who comes at any time finds a step under way as often as that, and waits for half of it.
        Targets that ask at the same time wait longer than a drafter that is idle in between
        would have it by its work alone.
        """
        waited = 2 * self.wait_steps if math.isfinite(self.wait_steps) else 0.0
        return max(self.busy, waited)


def target_replicas(pool: TargetPool, demand_seats: float) -> int:
    """Enough for `demand_seats`, and for the demand there is with one replica lost.

    Without any demand the least: a hundredth of a seat is none.
    """
    if not math.isfinite(demand_seats):
        return pool.bounds.clamp(pool.current)
    if demand_seats < _LEAST_DEMAND:
        return pool.bounds.least
    if not pool.seats_per_replica > 0:  # nothing known of what a replica can do
        return pool.bounds.clamp(max(pool.current, 1))
    wanted = demand_seats / (_SEATS_IN_USE * pool.seats_per_replica)
    surviving = pool.demand_seats / pool.seats_per_replica + 1
    # Bounded before it is an integer: a replica of hardly any seats would need endlessly many.
    return pool.bounds.clamp(math.ceil(min(max(wanted, surviving), pool.bounds.most)))


def drafter_replicas(pool: DrafterPool, targets: TargetPool, wanted_targets: int) -> int:
    """As many as the wanted targets will keep usefully busy."""
    growth = wanted_targets / targets.current if targets.current > 0 else 0.0
    return _kept_busy(pool, growth, at_least=min(wanted_targets, 1))


def drafters_of_fixed_targets(pool: DrafterPool) -> int:
    """As many as the targets there are keep usefully busy."""
    return _kept_busy(pool, 1.0, at_least=1)


def _kept_busy(pool: DrafterPool, growth: float, at_least: int) -> int:
    """Enough for `growth` times what is drafted now."""
    if not math.isfinite(pool.busy):
        return pool.bounds.clamp(pool.current)
    busy = pool.current * min(max(pool.load, 0.0), 1.0)
    if pool.load >= _DRAFTER_SATURATED:
        busy *= _SATURATED_GROWTH
    wanted = math.ceil(busy * growth / _DRAFTER_BUSY - 1e-9)
    return pool.bounds.clamp(max(wanted, at_least))
