"""Canaries of the fleet: one new drafter per model at most, its share of sessions, its verdict."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from autoscale.assignment import assign_drafters
from autoscale.canary import NOTHING, ArmTotals, CanaryRule, Comparison, Decision, Estimate, judge
from autoscale.canary_presence import Presence
from cluster.messages import DrafterReport, TargetReport
from profiles.provenance import DraftingPair

log = logging.getLogger(__name__)

_BEFORE = "decided before this controller began"
_TOLD_S = 30.0  # by then every target has told a new controller what was promoted

Learned = Callable[[DraftingPair], Mapping[str, Any]]
"""`FleetLearning.snapshot`."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A new drafter of a model: `share` of new sessions are its own while it is on trial, all
    once it is promoted, none once it is rolled back."""

    name: str
    share: float
    rule: CanaryRule
    began_s: float
    decision: Decision = Decision.WAIT
    why: str = ""

    @property
    def present_share(self) -> float:
        if self.decision is Decision.PROMOTE:
            return 1.0
        return self.share if self.decision is Decision.WAIT else 0.0


class Canaries:
    """By model. A new controller takes up one that was promoted from its targets' reports; one
    on trial is lost with its controller, and its sessions go back to the serving drafter."""

    def __init__(self, learned: Learned, began_s: float) -> None:
        self._learned = learned
        self._began_s = began_s
        self._canaries: dict[str, Canary] = {}
        self._presence: dict[str, Presence] = {}  # of those that were on trial here
        self._assigned: dict[str, dict[str, str]] = {}  # by model: target to drafter
        self._shown: dict[str, dict[str, Any]] = {}

    def __contains__(self, model_id: str) -> bool:
        return model_id in self._canaries

    def start(self, model_id: str, canary: Canary) -> None:
        """Raises ValueError while another one is on trial."""
        known = self._canaries.get(model_id)
        if known is not None and known.decision is Decision.WAIT and known.name != canary.name:
            raise ValueError(
                f"canary {known.name} of {model_id} is on trial; stop it first, or let it end"
            )
        self._canaries[model_id] = canary
        self._presence[model_id] = Presence(canary.began_s)
        self._shown.pop(model_id, None)

    def stop(self, model_id: str, why: str) -> bool:
        """Roll back what is on trial or promoted; False where there is nothing.

        One that was rolled back before keeps its reason.
        """
        known = self._canaries.get(model_id)
        if known is None:
            return False
        if known.decision is not Decision.ROLL_BACK:
            self._decide(model_id, known, Decision.ROLL_BACK, why)
        return True

    def kept(self, now_s: float) -> frozenset[str] | None:
        """Models whose canary is on trial or promoted; None while targets may still have to tell
        of one."""
        if now_s - self._began_s < _TOLD_S:
            return None
        return frozenset(id_ for id_, canary in self._canaries.items() if canary.present_share)

    def adopt(self, report: TargetReport, now_s: float) -> None:
        """Go on with a canary that was promoted before this controller began."""
        counted = report.stats.get("canary")
        if counted and counted.get("is_promoted") and report.model_id not in self._canaries:
            canary = Canary(counted["name"], 1.0, CanaryRule(), now_s, Decision.PROMOTE, _BEFORE)
            self._canaries[report.model_id] = canary

    def order(
        self, report: TargetReport, drafters: Mapping[str, DrafterReport], plan: Learned
    ) -> dict[str, Any] | None:
        """What a target is to do of its model's canary (`CanaryOrder`), given the drafters that
        are alive; None where it has none. `plan` tells calibrations."""
        canary = self._canaries.get(report.model_id)
        if canary is None or not canary.present_share or report.placement != "split":
            return None
        drafter = drafters.get(self._assigned.get(report.model_id, {}).get(report.replica_id, ""))
        if drafter is None:
            return None
        pair = self.pair(report.model_id, report.pair, drafters)
        return {
            "name": canary.name,
            "address": drafter.address,
            "key": drafter.public_key,
            "share": canary.present_share,
            "is_promoted": canary.decision is Decision.PROMOTE,
            "calibrations": plan(pair) if pair else {},
        }

    def pair(
        self,
        model_id: str,
        serving: DraftingPair | None,
        drafters: Mapping[str, DrafterReport],
    ) -> DraftingPair | None:
        """A target of a model with its new drafter; `serving` is the one with its own."""
        canary = self._canaries.get(model_id)
        if canary is None or serving is None:
            return None
        found = (d.drafter for d in _drafters_of(canary, drafters) if d.drafter)
        drafter_id, version = next(found, (None, None))
        if drafter_id is None or version is None:
            return None
        return replace(serving, drafter_id=drafter_id, drafter_version=version)

    def assign(
        self, model_id: str, targets: Sequence[str], drafters: Mapping[str, DrafterReport]
    ) -> None:
        """Give every target one of the canary's drafters."""
        canary = self._canaries.get(model_id)
        if canary is None:
            return
        own = [d.replica_id for d in _drafters_of(canary, drafters)]
        self._assigned[model_id] = assign_drafters(targets, own, self._assigned.get(model_id, {}))

    def judge(
        self,
        reports: Sequence[TargetReport],
        drafters: Mapping[str, DrafterReport],
        now_s: float,
    ) -> None:
        """Look at every canary on trial; what is decided holds from the next plans on."""
        for model_id, canary in list(self._canaries.items()):
            of_model = [r for r in reports if r.model_id == model_id]
            found = self._compare(canary, of_model, drafters)
            if found is not None:
                self._shown[model_id] = found.to_plain()
            if canary.decision is not Decision.WAIT:
                continue
            presence = self._presence[model_id]
            presence.see({d.replica_id for d in _drafters_of(canary, drafters)}, now_s)
            if (reason := presence.reason_to_end(now_s)) is not None:
                self._decide(model_id, canary, Decision.ROLL_BACK, reason)
            else:
                age_s = now_s - canary.began_s
                decision, why = judge(found or NOTHING, canary.rule, age_s)
                if decision is Decision.WAIT and not presence.is_there:
                    why = "none of its replicas is there"
                self._decide(model_id, canary, decision, why)

    def _compare(
        self,
        canary: Canary,
        reports: Sequence[TargetReport],
        drafters: Mapping[str, DrafterReport],
    ) -> Comparison | None:
        """What its targets have counted; None where it drafts for none, or nothing runs."""
        counted = [c for r in reports if (c := r.stats.get("canary")) and c["name"] == canary.name]
        steps = [r.load.step_s for r in reports if r.load is not None and r.load.step_s > 0]
        first = next((r for r in reports if r.pair is not None), None)
        if not counted or not steps or first is None or first.pair is None:
            return None
        pair = self.pair(first.model_id, first.pair, drafters)
        return Comparison(
            ArmTotals.total(one["serving"] for one in counted),
            ArmTotals.total(one["canary"] for one in counted),
            sum(steps) / len(steps),
            mean_ece(self._learned(first.pair)),
            mean_ece(self._learned(pair)) if pair else None,
        )

    def snapshot(self, model_id: str) -> dict[str, Any] | None:
        canary = self._canaries.get(model_id)
        if canary is None:
            return None
        return {
            "name": canary.name,
            "share": canary.present_share,
            "decision": str(canary.decision),
            "why": canary.why,
            **self._shown.get(model_id, {}),
        }

    def _decide(self, model_id: str, canary: Canary, decision: Decision, why: str) -> None:
        if decision is not Decision.WAIT:
            log.warning("canary %s of %s: %s: %s", canary.name, model_id, decision, why)
        self._canaries[model_id] = replace(canary, decision=decision, why=why)


def _drafters_of(canary: Canary, drafters: Mapping[str, DrafterReport]) -> Iterable[DrafterReport]:
    return (one for one in drafters.values() if one.canary == canary.name)


def mean_ece(snapshot: Mapping[str, Any]) -> Estimate | None:
    """Of survival beyond noise, over the keys of a pair by their labels; None while unknown."""
    known = [
        (one["excess_ece"], one["ece_error"], one["recent_labels"])
        for one in snapshot.get("calibration", {}).values()
        if one.get("excess_ece") is not None and one.get("recent_labels")
    ]
    if not known:
        return None
    eces, errors, labels = np.array(known).T
    weights = labels / labels.sum()
    return Estimate(float(weights @ eces), float(np.linalg.norm(weights * errors)))
