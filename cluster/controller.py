"""The fleet's registry: who serves what, which drafter each target uses, totals.

Targets and drafters report in every interval and get their part of the plan back.
Everything here is rebuilt from the next reports, so losing the controller loses nothing:
a target keeps the drafter it has.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from autoscale.assignment import assign_drafters
from autoscale.controls import Controls
from cluster.fleet_learning import FleetLearning
from cluster.messages import DrafterPlan, DrafterReport, IngressReport, TargetPlan, TargetReport

EXPIRY_S = 3.0
_OF_REPLICAS = ("deadline_ms", "drafter_address")  # controls that mean drafter replicas


class FleetController:
    """Keeps the last report of every replica and assigns drafters to targets.

    A replica that has not reported for `EXPIRY_S` is forgotten. `clock` is in seconds;
    `learning` is told of outcomes by whoever owns it.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        learning: FleetLearning | None = None,
    ) -> None:
        self._clock = clock
        self._learning = learning or FleetLearning()
        self._secret = secrets.token_hex(16)
        self._targets: dict[str, tuple[TargetReport, float]] = {}
        self._drafters: dict[str, tuple[DrafterReport, float]] = {}
        self._ingresses: dict[str, tuple[IngressReport, float]] = {}  # all there were
        self._assigned: dict[str, str] = {}
        self._controls: dict[str, Controls] = {}

    def change(self, model_id: str, changes: dict[str, Any]) -> Controls:
        """Change what all targets of a model go by from their next report on.

        Returns all that is changed of it. Raises KeyError when no target of that model
        drafts, ValueError for a change that cannot be.
        """
        self._expire()
        placements = {t.placement for t, _ in self._targets.values() if t.model_id == model_id}
        if not placements & {"split", "colocated"}:
            raise KeyError(model_id)
        remote = [name for name in _OF_REPLICAS if changes.get(name) is not None]
        if remote and "split" not in placements:
            raise ValueError(f"{', '.join(remote)}: a model in placement split alone has drafters")
        self._controls[model_id] = self._controls_of(model_id).changed(changes)
        return self._controls[model_id]

    def _controls_of(self, model_id: str) -> Controls:
        return self._controls.get(model_id, Controls())

    def report_drafter(self, report: DrafterReport) -> DrafterPlan:
        self._drafters[report.replica_id] = (report, self._clock())
        return DrafterPlan(self._secret)

    def report_target(self, report: TargetReport) -> TargetPlan:
        self._targets[report.replica_id] = (replace(report, outcomes=None), self._clock())
        changed = report.stats.get("controls")
        if changed and report.model_id not in self._controls:  # before this controller began
            self._controls[report.model_id] = Controls(**changed)
        self._plan(report.model_id)
        controls = self._controls_of(report.model_id)
        drafter, _ = self._drafters.get(self._assigned.get(report.replica_id, ""), (None, 0.0))
        if controls.drafter_address is not None:
            pinned = (d for d, _ in self._drafters.values())
            drafter = next((d for d in pinned if d.address == controls.drafter_address), None)
        return TargetPlan(
            drafter.address if drafter else controls.drafter_address,
            self._secret,
            drafter.public_key if drafter else None,
            controls,
            self._learning.plan(report.pair) if report.pair else {},
        )

    def report_ingress(self, report: IngressReport) -> None:
        self._ingresses[report.replica_id] = (report, self._clock())

    def snapshot(self) -> dict[str, Any]:
        """The fleet as `GET /fleet` shows it: per model its replicas and their totals."""
        self._expire()
        models: dict[str, dict[str, Any]] = {}
        for target, seen in self._targets.values():
            entry = asdict(target) | {
                "age_s": round(self._clock() - seen, 3),
                "drafter": self._assigned.get(target.replica_id),
            }
            del entry["outcomes"]
            self._model(models, target.model_id)["targets"].append(entry)
        for drafter, seen in self._drafters.values():
            entry = asdict(drafter) | {"age_s": round(self._clock() - seen, 3)}
            del entry["secret"]
            self._model(models, drafter.model_id)["drafters"].append(entry)
        for model_id, model in models.items():
            model["controls"] = self._controls_of(model_id).model_dump(exclude_none=True)
            model["speculation"] = speculation_totals([t["stats"] for t in model["targets"]])
            model["learned"] = self._learned(model_id)
        return {"models": models, "lost_targets": self._lost_targets()}

    def _lost_targets(self) -> dict[str, Any]:
        """What became of requests whose target was lost, over all ingresses that reported."""
        oldest = self._clock() - EXPIRY_S
        reports = [report for report, _ in self._ingresses.values()]
        totals = {name: sum(getattr(r, name) for r in reports) for name in _FAILOVERS}
        alive = [r for r, seen in self._ingresses.values() if seen >= oldest]
        return totals | {"ingresses": [{"replica_id": r.replica_id, "pid": r.pid} for r in alive]}

    def _learned(self, model_id: str) -> list[dict[str, Any]]:
        """Per pair that serves a model: calibration and acceptance, with their alarms."""
        targets = (target for target, _ in self._targets.values() if target.model_id == model_id)
        pairs = dict.fromkeys(target.pair for target in targets if target.pair is not None)
        return [asdict(pair) | self._learning.snapshot(pair) for pair in pairs]

    @staticmethod
    def _model(models: dict[str, dict[str, Any]], model_id: str) -> dict[str, Any]:
        return models.setdefault(model_id, {"targets": [], "drafters": []})

    def _plan(self, model_id: str) -> None:
        self._expire()
        targets = [
            id_
            for id_, (report, _) in self._targets.items()
            if report.model_id == model_id and report.placement == "split"
        ]
        drafters = [
            id_
            for id_, (report, _) in self._drafters.items()
            if report.model_id == model_id and report.secret == self._secret
        ]
        assigned = assign_drafters(targets, drafters, self._assigned)
        for target in targets:
            self._assigned.pop(target, None)
        self._assigned |= assigned

    def _expire(self) -> None:
        oldest = self._clock() - EXPIRY_S
        self._targets = {k: v for k, v in self._targets.items() if v[1] >= oldest}
        self._drafters = {k: v for k, v in self._drafters.items() if v[1] >= oldest}
        self._assigned = {k: v for k, v in self._assigned.items() if k in self._targets}


_FAILOVERS = ("continued", "restarted", "given_up")
_TOTALS = ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens")


def speculation_totals(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over replicas, and the acceptance length: tokens per verified draft, bonus included."""
    totals: dict[str, Any] = {name: sum(s.get(name, 0) for s in stats) for name in _TOTALS}
    verified = totals["verified_drafts"]
    totals["acceptance_length"] = (
        round(1 + totals["accepted_tokens"] / verified, 4) if verified else None
    )
    ineligible: dict[str, int] = {}
    for replica in stats:
        for reason, count in replica.get("ineligible", {}).items():
            ineligible[reason] = ineligible.get(reason, 0) + count
    totals["without_speculation"] = ineligible
    return totals
