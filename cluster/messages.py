"""What replicas tell the controller in every interval, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoscale.controls import Controls
from autoscale.fleet_load import ReplicaLoad
from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.quota import Books
from cluster.pace import SHORTEST_S, lifetime_s
from profiles.provenance import DraftingPair
from profiles.step_cost import EngineProvenance


@dataclass(frozen=True, slots=True)
class DrafterReport:
    """A drafter replica says where it listens; `public_key` where it is encrypted.

    `secret` is the one it expects from targets: with another than the controller's it is
    given to no target yet. One on trial names its `canary` and who it is: `drafter` is id and
    version. `busy` is the share of the time since its last report that it drafted. It reports
    every `interval_s`.
    """

    replica_id: str
    model_id: str
    address: str
    pid: int
    stats: dict[str, Any] = field(default_factory=dict)
    public_key: str | None = None
    secret: str = ""
    canary: str = ""
    drafter: tuple[str, str] | None = None
    busy: float = 0.0
    interval_s: float = SHORTEST_S


@dataclass(frozen=True, slots=True)
class TargetReport:
    """A target replica says what it did since it started, and how loaded it is.

    Where our adapter drafts, `pair` says with whom and `engine` what its step costs belong
    to; now and then `outcomes` are what became of drafts
    (`autoscale.calibration_messages.report_to_plain`), of a canary's `canary_outcomes`, and
    `step_cost` what steps take (`autoscale.fleet_step_cost.StepCostReport.to_plain`). A
    replica that is new `wants_step_cost` of the fleet. `held_plan` is `HeldPlan.snapshot`,
    `drafter_address` whom its plan has it ask, which a new controller leaves so. It reports
    every `interval_s`.
    """

    replica_id: str
    model_id: str
    placement: str
    pid: int
    stats: dict[str, Any] = field(default_factory=dict)
    pair: DraftingPair | None = None
    outcomes: dict[str, Any] | None = None
    load: ReplicaLoad | None = None
    engine: EngineProvenance | None = None
    step_cost: dict[str, Any] | None = None
    wants_step_cost: bool = False
    held_plan: dict[str, Any] = field(default_factory=dict)
    canary_outcomes: dict[str, Any] | None = None
    drafter_address: str | None = None
    interval_s: float = SHORTEST_S


@dataclass(frozen=True, slots=True)
class IngressReport:
    """An ingress replica says what became of requests whose target was lost, since it began:
    streams `continued` from their tokens, requests `restarted` before anything was said, and
    answers `given_up`. `usage` is of those it took in."""

    replica_id: str
    pid: int
    continued: int = 0
    restarted: int = 0
    given_up: int = 0
    usage: Books = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DrafterPlan:
    """What a drafter needs: the secret that its targets will present, and when to report."""

    secret: str
    interval_s: float = SHORTEST_S


@dataclass(frozen=True, slots=True)
class IngressPlan:
    """When an ingress is to report."""

    interval_s: float = SHORTEST_S


PLAN_TTL_S = lifetime_s(SHORTEST_S)


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What a target needs: its drafter's address and key, or None when there is none.

    `controls` are what was changed of its model while serving, `calibrations` what the fleet
    knows of its pair (`autoscale.calibration_messages.calibrations_to_plain`), `step_cost`
    what steps take on its hardware, for a replica that is new, and `canary` which drafter a
    share of its sessions tries (`deployments.engine.canary_arm.CanaryOrder`). They stand
    until the next plan. `advice` ends `ttl_s` after it came: from then on the replica goes by
    local rules.
    Nobody reads any more what requests of `gone_ingresses` get.
    Every `interval_s` the target is to report (`cluster.pace`).
    Of two plans the one of the later `(epoch, seq)` holds: `epoch` is when its controller
    began, `seq` counts its plans.
    """

    drafter_address: str | None
    secret: str
    drafter_key: str | None = None
    controls: Controls = field(default_factory=Controls)
    calibrations: dict[str, Any] = field(default_factory=dict)
    step_cost: dict[str, Any] | None = None
    canary: dict[str, Any] | None = None
    advice: ReplicaPlan = NO_PLAN
    gone_ingresses: tuple[str, ...] = ()
    epoch: int = 0
    seq: int = 0
    ttl_s: float = PLAN_TTL_S
    interval_s: float = SHORTEST_S
