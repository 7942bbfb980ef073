"""The controller as a named Ray actor, kept alive by a one-replica Serve deployment."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve

from autoscale.canary import CanaryRule
from autoscale.quota import Books
from autoscale.service_class import ServiceClass
from cluster.controller import FleetController
from cluster.fleet_learning import FleetLearning
from cluster.learning_thread import LearningThread
from cluster.messages import (
    DrafterPlan,
    DrafterReport,
    IngressPlan,
    IngressReport,
    TargetPlan,
    TargetReport,
)
from cluster.observability.publisher import Publisher
from cluster.observability.samples import PoolSizes, fleet_samples, learning_samples
from cluster.presence import AWAY_S, SETTLE_S
from cluster.step_cost_learning import StepCostLearning
from deployments.canary_apps import remove_unwanted_forever
from deployments.controller_link import ANSWER_S, NAMESPACE, actor_name
from profiles.provenance import DraftingPair

PUBLISH_EVERY_S = 1.0
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What a controller cannot learn from reports: see `cluster.fleet_learning`, and by model
    the service classes that are promised, and how many replicas there are to be."""

    state_dir: str | None = None
    promised: dict[DraftingPair, float] = field(default_factory=dict)
    classes: dict[str, tuple[ServiceClass, ...]] = field(default_factory=dict)
    pools: dict[str, PoolSizes] = field(default_factory=dict)


class ControllerActor:
    """One exchange per replica and interval: load up, plan down."""

    def __init__(self, settings: ControllerSettings) -> None:
        state_dir = Path(settings.state_dir) if settings.state_dir else None
        self._pools = settings.pools
        self._metrics = Publisher("controller")
        self._pairs = FleetLearning(state_dir, settings.promised, self._publish_learned)
        self._step_costs = StepCostLearning(state_dir)
        self._thread = LearningThread(self._refit)
        self._fleet = FleetController(
            learning=self._pairs,
            step_costs=self._step_costs,
            epoch=time.time_ns(),
            classes=settings.classes,
            settle_s=SETTLE_S,
            away_s=AWAY_S,
            on_taken=self._absorb,
        )

    def _refit(self) -> None:
        self._pairs.refit()
        self._step_costs.refit(self._fleet.target_ids())

    def _publish_learned(self, pair: DraftingPair, snapshot: dict[str, Any]) -> None:
        self._metrics.publish(learning_samples(pair, snapshot))

    async def report_drafter(self, report: DrafterReport) -> DrafterPlan:
        return self._fleet.report_drafter(report)

    async def report_target(self, report: TargetReport) -> TargetPlan:
        return self._fleet.report_target(report)

    def _absorb(self, report: TargetReport) -> None:
        """What a report lets learn, by the thread that learns."""
        if report.pair is not None and report.outcomes:
            self._thread.offer(partial(self._pairs.absorb, report.pair, report.outcomes))
        if report.canary_outcomes and (pair := self._fleet.canary_pair(report)):
            self._thread.offer(partial(self._pairs.absorb, pair, report.canary_outcomes))
        if report.engine is not None and report.step_cost:
            absorb = partial(self._step_costs.absorb, report.engine, report.replica_id)
            self._thread.offer(partial(absorb, report.step_cost))

    async def report_ingress(self, report: IngressReport) -> IngressPlan:
        return self._fleet.report_ingress(report)

    async def usage_elsewhere(self, replica_id: str) -> Books:
        return self._fleet.usage_elsewhere(replica_id)

    async def change(self, model_id: str, changes: dict[str, Any]) -> dict[str, Any] | None:
        """What is changed of a model by now; None where no target of it drafts.

        A change that cannot be comes back as `{"refused": why}`.
        """
        try:
            return self._fleet.change(model_id, changes).model_dump(exclude_none=True)
        except KeyError:
            return None
        except ValueError as error:
            return {"refused": str(error)}

    async def start_canary(
        self, model_id: str, name: str, share: float, rule: CanaryRule
    ) -> dict[str, Any] | None:
        """As `change`."""
        try:
            self._fleet.start_canary(model_id, name, share, rule)
        except KeyError:
            return None
        except ValueError as error:
            return {"refused": str(error)}
        return {"name": name, "share": share}

    async def stop_canary(self, model_id: str) -> bool:
        return self._fleet.stop_canary(model_id)

    async def kept_canaries(self) -> frozenset[str] | None:
        return self._fleet.kept_canaries()

    async def snapshot(self) -> dict[str, Any]:
        """The fleet, for whoever looks at it."""
        fleet = self._fleet.snapshot()
        fleet["controller"]["pid"] = os.getpid()
        return fleet

    async def ping(self) -> None:
        """An answer, and nothing beside it: that is all that its health is."""

    async def publish(self) -> None:
        """The fleet's metrics, as its keeper asks for them."""
        dropped = {
            "flood": self._fleet.num_dropped_reports + self._thread.num_dropped,
            "impossible_load": self._fleet.num_impossible_loads,
            "controls": self._fleet.num_impossible_controls,
            "outcomes": self._pairs.num_malformed_reports,
            "step_cost": self._step_costs.num_malformed_reports,
        }
        self._metrics.publish(fleet_samples(self._fleet.outline(), self._pools, dropped))


class ControllerKeeper:
    """Owns the actor: it is made here, restarted by Ray, and gone with the application.

    It has the fleet published; that this fails is no reason to replace a controller. What of
    canaries nobody wants any more is removed from here.
    """

    def __init__(self, settings: ControllerSettings) -> None:
        app_name = serve.get_replica_context().app_name
        self._actor = (
            ray.remote(ControllerActor)
            .options(
                name=actor_name(app_name),
                namespace=NAMESPACE,
                num_cpus=0,
                max_restarts=-1,
                get_if_exists=True,
            )
            .remote(settings)
        )
        removal = remove_unwanted_forever(app_name, self._actor.kept_canaries.remote)
        self._removal = asyncio.get_running_loop().create_task(removal)

        self._published = asyncio.get_running_loop().create_task(self._publish_forever())

    async def _publish_forever(self) -> None:
        while True:
            await asyncio.sleep(PUBLISH_EVERY_S)
            try:
                await asyncio.wait_for(self._actor.publish.remote(), ANSWER_S)
            except Exception as error:
                logger.warning("the fleet could not be published: %r", error)

    async def check_health(self) -> None:
        """A controller that is dead or hangs makes Serve replace the keeper, and so both."""
        await self._actor.ping.remote()
