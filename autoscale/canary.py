"""A new drafter against the serving one on live traffic: what is counted, and the verdict.

A share of the requests, drawn by request alone, is drafted for by the new drafter, the canary.
Both drafters see the same steps, loads and schedule. A request is the unit of comparison: what
is accepted of its drafts hangs together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np

from autoscale.exploration import request_seed

_Z = 3.0  # standard errors of an interval: it is looked at again and again
_MIN_REQUESTS = 50  # that ended, of either drafter
_MIN_ANSWERED = 0.5  # of what a drafter is asked


def joins_canary(request_id: str, share: float) -> bool:
    """Whether a request belongs to the canary; those of a smaller share are among them."""
    return request_seed(request_id) / 2.0**64 < share


@dataclass(slots=True)
class ArmTotals:
    """Sums over one drafter's requests that ended, by drafted steps and tokens accepted in
    them, and over waits for it in seconds. Sums of replicas add up."""

    requests: float = 0.0
    steps: float = 0.0
    accepted: float = 0.0
    steps_squared: float = 0.0
    accepted_squared: float = 0.0
    steps_accepted: float = 0.0
    asked: float = 0.0
    waits: float = 0.0
    wait_s: float = 0.0
    wait_s_squared: float = 0.0

    def end(self, steps: int, accepted: int) -> None:
        """A request ended: drafted steps, and draft tokens accepted in them."""
        self.requests += 1
        self.steps += steps
        self.accepted += accepted
        self.steps_squared += steps * steps
        self.accepted_squared += accepted * accepted
        self.steps_accepted += steps * accepted

    def waited(self, wait_s: float | None) -> None:
        """It was asked, and answered after `wait_s`; None: not in time."""
        self.asked += 1
        if wait_s is not None:
            self.waits += 1
            self.wait_s += wait_s
            self.wait_s_squared += wait_s * wait_s

    @classmethod
    def total(cls, parts: Iterable[Mapping[str, Any]]) -> ArmTotals:
        """Of what `asdict` made of several. What no replica can count is left out."""
        names = [field.name for field in fields(cls)]
        total = cls()
        for part in parts:
            values = [part.get(name, 0.0) for name in names]
            if not all(isinstance(v, int | float) and 0 <= v < 1e15 for v in values):
                continue
            total = cls(*(getattr(total, n) + v for n, v in zip(names, values, strict=True)))
        return total

    def accepted_per_step(self) -> Estimate:
        """Draft tokens accepted in a drafted step."""
        if self.requests < 2 or not self.steps:
            return Estimate(0.0, math.inf)
        ratio = self.accepted / self.steps
        spread = self.accepted_squared - 2 * ratio * self.steps_accepted
        spread += ratio * ratio * self.steps_squared
        scale = self.requests / (self.requests - 1)
        return Estimate(ratio, math.sqrt(max(spread, 0.0) * scale) / self.steps)

    def mean_wait_s(self) -> Estimate:
        if self.waits < 2:
            return Estimate(0.0, math.inf)
        mean = self.wait_s / self.waits
        variance = max(self.wait_s_squared / self.waits - mean * mean, 0.0)
        return Estimate(mean, math.sqrt(variance / (self.waits - 1)))


class Estimate(NamedTuple):
    """A value and its standard error."""

    value: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        return self.value - _Z * self.error, self.value + _Z * self.error


class CanaryWatch:
    """One replica's count of both drafters, while a canary runs."""

    def __init__(self) -> None:
        self.serving, self.canary = ArmTotals(), ArmTotals()
        self._open: dict[str, tuple[ArmTotals, list[int]]] = {}

    def record(
        self, verified: Iterable[tuple[str, int, int]], canary_ids: frozenset[str] | set[str]
    ) -> None:
        """What a step made of its drafts; requests in `canary_ids` are the canary's."""
        for request_id, _, num_accepted in verified:
            known = self._open.get(request_id)
            if known is None:
                arm = self.canary if request_id in canary_ids else self.serving
                known = self._open[request_id] = (arm, [0, 0])
            known[1][0] += 1
            known[1][1] += num_accepted

    def end(self, request_id: str) -> None:
        """A request left; one that was never drafted for does not count."""
        arm, (steps, accepted) = self._open.pop(request_id, (None, (0, 0)))
        if arm is not None:
            arm.end(steps, accepted)

    def to_plain(self) -> dict[str, Any]:
        return {"serving": asdict(self.serving), "canary": asdict(self.canary)}


class Decision(StrEnum):
    WAIT, PROMOTE, ROLL_BACK = "wait", "promote", "roll back"


@dataclass(frozen=True, slots=True)
class CanaryRule:
    """`margin` is the loss of speed, and `ece_margin` the rise of the ECE, that is taken for none;
    `patience_s` the time after which a canary that proves nothing is given up."""

    margin: float = 0.02
    ece_margin: float = 0.03
    patience_s: float = 3600.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{field.name} has to be above 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Canary over serving: `speed` is the ratio of a session's tokens per second with its
    interval; acceptance lengths include the bonus token. ECE is what of it noise does not
    explain (`autoscale.drift`), None while unknown."""

    serving: ArmTotals
    canary: ArmTotals
    step_s: float
    serving_ece: Estimate | None = None
    canary_ece: Estimate | None = None

    @property
    def speed(self) -> tuple[float, float, float]:
        """Ratio, lowest and highest believable: (1 + a) / (T + w), canary over serving.

        The canary's batches are the smaller ones, so its wait is rather too short than too
        long while its share is small.
        """
        log_ratio, variance = 0.0, 0.0
        for sign, arm in ((1, self.canary), (-1, self.serving)):
            accepted, wait = arm.accepted_per_step(), arm.mean_wait_s()
            round_s = max(self.step_s + wait.value, 1e-9)
            log_ratio += sign * (math.log1p(accepted.value) - math.log(round_s))
            variance += (accepted.error / (1 + accepted.value)) ** 2 + (wait.error / round_s) ** 2
        if not math.isfinite(variance):
            return 1.0, 0.0, math.inf
        spread = _Z * math.sqrt(variance)
        return (
            math.exp(log_ratio),
            math.exp(log_ratio - spread),
            math.exp(min(log_ratio + spread, 700.0)),
        )

    @property
    def ece_rise(self) -> Estimate | None:
        """From the serving drafter to the canary; one that serves and is not measured counts as
        perfect."""
        if self.canary_ece is None:
            return None
        serving = self.serving_ece or Estimate(0.0, 0.0)
        return Estimate(
            self.canary_ece.value - serving.value, math.hypot(self.canary_ece.error, serving.error)
        )

    def to_plain(self) -> dict[str, Any]:
        """For people: what was counted, and both with their intervals."""
        ratio, low, high = self.speed
        shown: dict[str, Any] = {"speed": _rounded(ratio, low, high)}
        for name, arm, ece in (
            ("serving", self.serving, self.serving_ece),
            ("canary", self.canary, self.canary_ece),
        ):
            length, wait = arm.accepted_per_step(), arm.mean_wait_s()
            shown[name] = {
                "requests": int(arm.requests),
                "steps": int(arm.steps),
                "acceptance_length": _rounded(
                    1 + length.value, *(1 + bound for bound in length.interval)
                ),
                "wait_ms": _rounded(1000 * wait.value, *(1000 * bound for bound in wait.interval)),
                "answered": round(arm.waits / arm.asked, 4) if arm.asked else None,
                "ece": None if ece is None else _rounded(*_at_least_0(ece.value, *ece.interval)),
            }
        return shown


NOTHING = Comparison(ArmTotals(), ArmTotals(), 0.0)
"""Counted of a canary whose drafter is not there, or serves nobody."""


def judge(found: Comparison, rule: CanaryRule, age_s: float) -> tuple[Decision, str]:
    """Promote, roll back, or wait for more; and why.

    Promoted is what is surely no slower and no worse calibrated than the margins allow.
    Rolled back is what is surely slower, does not answer, or proves nothing in time.
    """
    canary = found.canary
    if canary.asked >= _MIN_REQUESTS and canary.waits < _MIN_ANSWERED * canary.asked:
        return Decision.ROLL_BACK, f"it answered {canary.waits / canary.asked:.0%} in time"
    for whose, arm in (("its", canary), ("the serving drafter's", found.serving)):
        if arm.requests < _MIN_REQUESTS:
            said = f"{arm.requests:.0f} of {_MIN_REQUESTS} of {whose} requests have ended"
            return _undecided(said, rule, age_s)
    ratio, low, high = found.speed
    said = f"{ratio:.3f}x the speed ({low:.3f} to {high:.3f})"
    if high < 1.0:
        return Decision.ROLL_BACK, f"slower: {said}"
    if low < 1.0 - rule.margin:
        return _undecided(said, rule, age_s)
    rise = found.ece_rise
    if rise is None:
        return _undecided(f"{said}; its calibration is not measured yet", rule, age_s)
    low, high = rise.interval
    said += f"; ECE higher by {rise.value:.1%} ({low:.1%} to {high:.1%})"
    if high > rule.ece_margin:
        return _undecided(f"{said}, up to {rule.ece_margin:.1%} is taken for none", rule, age_s)
    return Decision.PROMOTE, said


def _undecided(so_far: str, rule: CanaryRule, age_s: float) -> tuple[Decision, str]:
    if age_s > rule.patience_s:
        return Decision.ROLL_BACK, f"nothing was proven in {rule.patience_s:.0f} s: {so_far}"
    return Decision.WAIT, so_far


def _rounded(*values: float) -> list[float | None]:
    return [round(v, 4) if math.isfinite(v) else None for v in np.asarray(values).tolist()]


def _at_least_0(*values: float) -> list[float]:
    return [max(value, 0.0) for value in values]
