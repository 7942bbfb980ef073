"""What replicas tell the controller in every interval, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from autoscale.controls import Controls
from profiles.provenance import DraftingPair


@dataclass(frozen=True, slots=True)
class DrafterReport:
    """A drafter replica says where it listens; `public_key` where it is encrypted.

    `secret` is the one it expects from targets: with another than the controller's it is
    given to no target yet.
    """

    replica_id: str
    model_id: str
    address: str
    pid: int
    stats: dict[str, Any] = field(default_factory=dict)
    public_key: str | None = None
    secret: str = ""


@dataclass(frozen=True, slots=True)
class TargetReport:
    """A target replica says what it did since it started.

    Where our adapter drafts, `pair` says with whom, and now and then `outcomes` what became
    of drafts (`autoscale.calibration_messages.report_to_plain`).
    """

    replica_id: str
    model_id: str
    placement: str
    pid: int
    stats: dict[str, Any] = field(default_factory=dict)
    pair: DraftingPair | None = None
    outcomes: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class IngressReport:
    """An ingress replica says what became of requests whose target was lost, since it began:
    streams `continued` from their tokens, requests `restarted` before anything was said, and
    answers `given_up`."""

    replica_id: str
    pid: int
    continued: int = 0
    restarted: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class DrafterPlan:
    """What a drafter needs: the secret that its targets will present."""

    secret: str


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """What a target needs: its drafter's address and key, or None when there is none.

    `controls` are what was changed of its model while serving, `calibrations` what the fleet
    knows of its pair (`autoscale.calibration_messages.calibrations_to_plain`).
    """

    drafter_address: str | None
    secret: str
    drafter_key: str | None = None
    controls: Controls = field(default_factory=Controls)
    calibrations: dict[str, Any] = field(default_factory=dict)
