"""The fleet's registry: who serves what, which drafter and plan each target has, totals.

Targets and drafters report in every interval and get their part of the plan back.
Everything here is rebuilt from the next reports, so losing the controller loses nothing:
a target keeps the drafter it has.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from autoscale.assignment import assign_drafters
from autoscale.canary import CanaryRule
from autoscale.controls import Controls
from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.quota import Books, added
from autoscale.service_class import ServiceClass
from cluster.canaries import Canaries, Canary
from cluster.fleet_learning import FleetLearning
from cluster.fleet_plans import FleetPlans
from cluster.fleet_view import plain, speculation_totals
from cluster.messages import (
    DrafterPlan,
    DrafterReport,
    IngressPlan,
    IngressReport,
    TargetPlan,
    TargetReport,
)
from cluster.pace import SHORTEST_S, lifetime_s
from cluster.presence import Heard, Presence
from cluster.step_cost_learning import StepCostLearning
from profiles.provenance import DraftingPair

EXPIRY_S = lifetime_s(SHORTEST_S)
TICK_S = 0.25
BALANCE_EVERY_S = 10.0
MIN_INTERVAL_S = 0.05
MAX_REPLICAS = 4096  # targets, and as many drafters
INGRESS_GONE_S = 30.0  # Serve's three health checks of 5 s fail and its grace ends before that
MAX_GONE_TOLD = 32  # the last ones
MAX_INGRESSES = 1024  # living and dead, whose totals are kept
_STEERABLE = ("speculation", "verify_budget_tokens")  # where vLLM verifies adaptively
_FAILOVERS = ("continued", "restarted", "given_up")
_OF_REPLICAS = ("deadline_ms", "drafter_address")  # controls that mean drafter replicas


class FleetController:
    """Keeps the last report of every replica, assigns drafters to targets and plans for them.

    Replicas are told how often to report, and those that have not for six such intervals are
    forgotten (`cluster.pace`; `settle_s` and `away_s` are of `cluster.presence`). `clock` is in
    seconds; `learning` and `step_costs` are told of reports by whoever owns them. `epoch` rises
    from one controller of an application to the next: where the clock it was read from was set
    back, above those of the plans that targets come with. `classes` are what each model promises.
    Nobody is assigned a drafter until it is settled, while replicas of an earlier controller
    report to this one. `on_taken` is told of reports that count.
    Reports are bounded: of more than `MAX_REPLICAS`, and of more than one per
    `MIN_INTERVAL_S` of a replica, the rest is counted and changes nothing. Of ingresses the
    last `MAX_INGRESSES` are kept.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        learning: FleetLearning | None = None,
        step_costs: StepCostLearning | None = None,
        *,
        epoch: int = 0,
        classes: Mapping[str, Sequence[ServiceClass]] | None = None,
        settle_s: float = 0.0,
        away_s: float = math.inf,
        on_taken: Callable[[TargetReport], None] = lambda report: None,
    ) -> None:
        self.num_dropped_reports = 0
        self.num_impossible_controls = 0
        self._clock = clock
        self._learning = learning or FleetLearning()
        self._step_costs = step_costs or StepCostLearning()
        self._plans = FleetPlans(classes)
        self._canaries = Canaries(self._learning.snapshot, clock())
        self._presence = Presence(clock, settle_s, away_s)
        self._on_taken = on_taken
        self._epoch = epoch
        self._seq = 0
        self._next_tick_s = -math.inf
        self._next_balance_s = -math.inf
        self._secret = secrets.token_hex(16)
        self._targets: dict[str, Heard[TargetReport]] = {}
        self._drafters: dict[str, Heard[DrafterReport]] = {}
        self._ingresses: dict[str, Heard[IngressReport]] = {}  # all there were
        self._gone_ingresses: tuple[str, ...] = ()
        self._assigned: dict[str, str] = {}
        self._to_assign: set[str] = set()  # models whose replicas or loads changed
        self._controls: dict[str, Controls] = {}

    def change(self, model_id: str, changes: dict[str, Any]) -> Controls:
        """Change what all targets of a model go by from their next report on.

        Returns all that is changed of it. Raises KeyError when no target of that model
        drafts, ValueError for a change that cannot be.
        """
        targets = [t for t, *_ in self._presence.living(self._targets) if t.model_id == model_id]
        placements = {target.placement for target in targets}
        if not placements & {"split", "colocated"}:
            if not any(target.stats.get("steered") for target in targets):
                raise KeyError(model_id)
            others = sorted(k for k, v in changes.items() if v is not None and k not in _STEERABLE)
            if others:
                raise ValueError(
                    f"{', '.join(others)}: vLLM drafts for this model (placement native); what "
                    f"reaches its verification is {', '.join(_STEERABLE)}"
                )
        remote = [name for name in _OF_REPLICAS if changes.get(name) is not None]
        if remote and "split" not in placements:
            raise ValueError(f"{', '.join(remote)}: a model in placement split alone has drafters")
        self._controls[model_id] = self._controls_of(model_id).changed(changes)
        return self._controls[model_id]

    def start_canary(self, model_id: str, name: str, share: float, rule: CanaryRule) -> None:
        """Give a share of a model's new sessions to the drafters that report this canary.

        Raises KeyError when no target of that model has drafter replicas, ValueError for a
        share that is none or while another canary is on trial.
        """
        targets = (t for t, *_ in self._presence.living(self._targets) if t.model_id == model_id)
        if not any(target.placement == "split" for target in targets):
            raise KeyError(model_id)
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}; it has to be above 0 and at most 1")
        self._canaries.start(model_id, Canary(name, share, rule, self._clock()))
        self._to_assign.add(model_id)

    def stop_canary(self, model_id: str) -> bool:
        """Give its sessions back to the serving drafters; False where there is no canary."""
        return self._canaries.stop(model_id, "stopped by hand")

    def kept_canaries(self) -> frozenset[str] | None:
        """Models whose canary is on trial or promoted; None while targets may still have to tell
        of one that was promoted before this controller began. Trials end here also where no
        target reports."""
        self.tick()
        return self._canaries.kept(self._clock())

    def canary_pair(self, report: TargetReport) -> DraftingPair | None:
        """What a target's `canary_outcomes` belong to."""
        return self._canaries.pair(report.model_id, report.pair, self._live_drafters())

    def _canary_order(self, report: TargetReport) -> dict[str, Any] | None:
        if report.model_id not in self._canaries:
            return None
        return self._canaries.order(report, self._live_drafters(), self._learning.plan)

    def _live_drafters(self) -> dict[str, DrafterReport]:
        return {
            id_: heard.report
            for id_, heard in self._drafters.items()
            if heard.report.secret == self._secret
        }

    def _controls_of(self, model_id: str) -> Controls:
        return self._controls.get(model_id, Controls())

    def report_drafter(self, report: DrafterReport) -> DrafterPlan:
        now_s = self._presence.hear(report.interval_s)
        heard = self._drafters.get(report.replica_id)
        known = heard.report if heard is not None else None
        is_flood = (
            len(self._drafters) >= MAX_REPLICAS
            if heard is None
            else now_s - heard.at_s < MIN_INTERVAL_S and heard.report.secret == self._secret
        )
        self.num_dropped_reports += is_flood
        if not is_flood:
            if known is None or (known.secret, known.address) != (report.secret, report.address):
                self._to_assign.add(report.model_id)
            self._drafters[report.replica_id] = self._presence.heard(
                report, report.interval_s, heard
            )
        self._tick_where_due(now_s)
        told_s = self._presence.tell_s(self._drafters.get(report.replica_id))
        return DrafterPlan(self._secret, told_s)

    def report_target(self, report: TargetReport) -> TargetPlan:
        now_s = self._presence.hear(report.interval_s)
        if self._takes(report, now_s):
            self._take(report, now_s)
        self._tick_where_due(now_s)
        if report.model_id in self._to_assign:
            self._assign(report.model_id)
        return self._plan(report)

    def tick(self) -> None:
        """Forget who fell silent and make all plans anew; done by itself with reports."""
        now_s = self._clock()
        self._next_tick_s = now_s + TICK_S
        self._expire()
        self._gone_ingresses = self._find_gone_ingresses(now_s)
        count = self._presence.count
        num_replicas = count(self._targets) + count(self._drafters) + count(self._ingresses)
        self._presence.num_replicas = num_replicas
        if now_s >= self._next_balance_s:
            self._next_balance_s = now_s + BALANCE_EVERY_S
            self._to_assign |= {heard.report.model_id for heard in self._drafters.values()}
        for model_id in list(self._to_assign):
            self._assign(model_id)
        self._plans.tick(now_s)
        reports = [heard.report for heard in self._targets.values()]
        self._canaries.judge(reports, self._live_drafters(), now_s)

    def _tick_where_due(self, now_s: float) -> None:
        if now_s >= self._next_tick_s:
            self.tick()

    def _takes(self, report: TargetReport, now_s: float) -> bool:
        known = self._targets.get(report.replica_id)
        is_flood = (
            len(self._targets) >= MAX_REPLICAS
            if known is None
            else now_s - known.at_s < MIN_INTERVAL_S and known.report.model_id == report.model_id
        )
        self.num_dropped_reports += is_flood
        return not is_flood

    def _take(self, report: TargetReport, now_s: float) -> None:
        known = self._targets.get(report.replica_id)
        if known is None or known.report.placement != report.placement:
            self._to_assign.add(report.model_id)
        kept = replace(report, outcomes=None, step_cost=None, canary_outcomes=None)
        self._targets[report.replica_id] = self._presence.heard(kept, report.interval_s, known)
        if report.load is not None:
            relative = self._step_costs.relative(report.replica_id)
            self._plans.report(report.model_id, report.replica_id, report.load, now_s, relative)
        self._canaries.adopt(report, now_s)
        if not self._presence.is_settled:
            self._epoch = max(self._epoch, (report.held_plan.get("epoch") or 0) + 1)
        self._on_taken(report)
        changed = report.stats.get("controls")
        if changed and report.model_id not in self._controls:  # before this controller began
            try:
                self._controls[report.model_id] = Controls.model_validate(changed)
            except ValueError:  # of another version, say; its target gets its plan all the same
                self.num_impossible_controls += 1

    def _plan(self, report: TargetReport) -> TargetPlan:
        controls = self._controls_of(report.model_id)
        assigned = self._drafters.get(self._assigned.get(report.replica_id, ""))
        drafter = assigned.report if assigned is not None else None
        address = drafter.address if drafter else None
        if controls.drafter_address is not None:
            address = controls.drafter_address
            drafters = (heard.report for heard in self._drafters.values())
            drafter = next((one for one in drafters if one.address == address), None)
            if drafter is not None and drafter.secret != self._secret:
                address = None  # it would refuse the secret that goes with it
        follows = controls.plan is not False
        wants = report.engine if report.wants_step_cost and follows else None
        self._seq += 1
        told_s = self._presence.tell_s(self._targets.get(report.replica_id))
        return TargetPlan(
            address,
            self._secret,
            drafter.public_key if drafter else None,
            controls,
            self._learning.plan(report.pair) if report.pair and follows else {},
            self._step_costs.plan(wants) if wants else None,
            self._canary_order(report),
            self._advice(report),
            self._gone_ingresses,
            self._epoch,
            self._seq,
            lifetime_s(told_s),
            told_s,
        )

    def _advice(self, report: TargetReport) -> ReplicaPlan:
        if self._controls_of(report.model_id).plan is False:
            return NO_PLAN
        return self._plans.of(report.replica_id)

    def _find_gone_ingresses(self, now_s: float) -> tuple[str, ...]:
        """Those that fell silent and are not paused: Serve has killed them since."""
        gone = self._presence.gone(self._ingresses).items()
        long = [(heard.at_s, id_) for id_, heard in gone if now_s - heard.at_s > INGRESS_GONE_S]
        return tuple(id_ for _, id_ in sorted(long)[-MAX_GONE_TOLD:])

    @property
    def num_impossible_loads(self) -> int:
        return self._plans.num_impossible_loads

    def target_ids(self) -> frozenset[str]:
        """Of all that report. From any thread: copied in one step."""
        return frozenset(self._targets)

    def report_ingress(self, report: IngressReport) -> IngressPlan:
        now_s = self._presence.hear(SHORTEST_S)
        known = self._ingresses.get(report.replica_id)
        if known is None and len(self._ingresses) >= MAX_INGRESSES:
            oldest = min(self._ingresses, key=lambda id_: self._ingresses[id_].at_s)
            del self._ingresses[oldest]
        heard = self._presence.heard(report, SHORTEST_S, known)
        self._ingresses[report.replica_id] = heard
        self._tick_where_due(now_s)
        return IngressPlan(heard.told_s)

    def usage_elsewhere(self, replica_id: str) -> Books:
        """By account, as all ingresses that ever reported said last, but for one."""
        heard = self._ingresses.items()
        return added(one.report.usage for id_, one in heard if id_ != replica_id)

    def outline(self) -> dict[str, Any]:
        """Of `snapshot` what the fleet's metrics need (`fleet_samples`), and no more."""
        models: dict[str, dict[str, Any]] = {}
        for target, *_ in self._presence.living(self._targets):
            assigned = self._assigned.get(target.replica_id)
            entry = {"placement": target.placement, "drafter": assigned}
            self._model(models, target.model_id)["targets"].append(entry)
        for drafter, *_ in self._presence.living(self._drafters):
            of_drafter = {"canary": drafter.canary, "busy": drafter.busy}
            self._model(models, drafter.model_id)["drafters"].append(of_drafter)
        for model_id, model in models.items():
            model["load"] = self._load(model_id, model["drafters"])
        return {"models": models}

    def _load(self, model_id: str, drafters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        busy = [one["busy"] for one in drafters if not one["canary"]]
        return asdict(self._plans.total(model_id, busy))

    def snapshot(self) -> dict[str, Any]:
        """The fleet as `GET /fleet` shows it: per model its replicas and their totals."""
        now_s = self._clock()
        models: dict[str, dict[str, Any]] = {}
        for target, at_s, *_ in self._presence.living(self._targets):
            entry = plain(target) | {
                "age_s": round(now_s - at_s, 3),
                "drafter": self._assigned.get(target.replica_id),
                "plan": plain(self._advice(target)),
                "relative_step_cost": self._step_costs.relative(target.replica_id),
            }
            del entry["outcomes"], entry["step_cost"], entry["canary_outcomes"]
            self._model(models, target.model_id)["targets"].append(entry)
        for drafter, at_s, *_ in self._presence.living(self._drafters):
            entry = plain(drafter) | {"age_s": round(now_s - at_s, 3)}
            del entry["secret"]
            self._model(models, drafter.model_id)["drafters"].append(entry)
        for model_id, model in models.items():
            model["controls"] = self._controls_of(model_id).model_dump(exclude_none=True)
            model["speculation"] = speculation_totals([t["stats"] for t in model["targets"]])
            model["learned"] = self._learned(model_id)
            model["canary"] = self._canaries.snapshot(model_id)
            model["load"] = self._load(model_id, model["drafters"])
        return {
            "models": models,
            "lost_targets": self._lost_targets(),
            "controller": {
                "epoch": self._epoch,
                "plans": self._seq,
                "dropped_reports": self.num_dropped_reports,
                "impossible_loads": self.num_impossible_loads,
            },
            "step_costs": self._step_costs.snapshot(),
        }

    def _lost_targets(self) -> dict[str, Any]:
        """What became of requests whose target was lost, over all ingresses that reported."""
        reports = [heard.report for heard in self._ingresses.values()]
        totals = {name: sum(getattr(r, name) for r in reports) for name in _FAILOVERS}
        living = (report for report, *_ in self._presence.living(self._ingresses))
        return totals | {"ingresses": [{"replica_id": r.replica_id, "pid": r.pid} for r in living]}

    def _learned(self, model_id: str) -> list[dict[str, Any]]:
        """Per pair that serves a model, or is tried: calibration and acceptance, with alarms."""
        targets = (t for t, *_ in self._presence.living(self._targets) if t.model_id == model_id)
        pairs = dict.fromkeys(target.pair for target in targets if target.pair is not None)
        drafters = self._live_drafters() if model_id in self._canaries else {}
        tried = [self._canaries.pair(model_id, pair, drafters) for pair in pairs]
        pairs |= dict.fromkeys(pair for pair in tried if pair is not None)
        return [asdict(pair) | self._learning.snapshot(pair) for pair in pairs]

    @staticmethod
    def _model(models: dict[str, dict[str, Any]], model_id: str) -> dict[str, Any]:
        return models.setdefault(model_id, {"targets": [], "drafters": []})

    def _assign(self, model_id: str) -> None:
        if not self._presence.is_settled:
            return
        self._to_assign.discard(model_id)
        targets = [
            id_
            for id_, (report, *_) in self._targets.items()
            if report.model_id == model_id and report.placement == "split"
        ]
        live = self._live_drafters()
        drafters = [id_ for id_, d in live.items() if d.model_id == model_id and not d.canary]
        self._canaries.assign(model_id, targets, live)
        wanted = self._plans.drafts_per_s()
        assigned = assign_drafters(targets, drafters, self._current(targets), wanted)
        for target in targets:
            self._assigned.pop(target, None)
        self._assigned |= assigned

    def _current(self, targets: Sequence[str]) -> dict[str, str]:
        """Whom targets ask by now: as they were assigned, or as they came from an earlier
        controller."""
        names = {heard.report.address: id_ for id_, heard in self._drafters.items()}
        came_with = {t: names.get(self._targets[t].report.drafter_address or "") for t in targets}
        found = {t: self._assigned.get(t) or came_with[t] for t in targets}
        return {t: drafter for t, drafter in found.items() if drafter is not None}

    def _expire(self) -> None:
        for id_, target in self._presence.gone(self._targets).items():
            del self._targets[id_]
            self._assigned.pop(id_, None)
            self._plans.forget(target.report.model_id, id_)
            self._to_assign.add(target.report.model_id)
        for id_, drafter in self._presence.gone(self._drafters).items():
            del self._drafters[id_]
            self._to_assign.add(drafter.report.model_id)
