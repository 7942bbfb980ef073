"""The controller as a named Ray actor, kept alive by a one-replica Serve deployment."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray import serve

from cluster.controller import (
    DrafterPlan,
    DrafterReport,
    FleetController,
    TargetPlan,
    TargetReport,
)

NAMESPACE = "dspark"
INTERVAL_S = 0.5
logger = logging.getLogger(__name__)


class ControllerActor:
    """One exchange per replica and interval: load up, plan down."""

    def __init__(self) -> None:
        self._fleet = FleetController()

    async def report_drafter(self, report: DrafterReport) -> DrafterPlan:
        return self._fleet.report_drafter(report)

    async def report_target(self, report: TargetReport) -> TargetPlan:
        return self._fleet.report_target(report)

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

    async def snapshot(self) -> dict[str, Any]:
        return self._fleet.snapshot()


def actor_name(app_name: str) -> str:
    return f"controller:{app_name}"


def find_controller(app_name: str) -> Any:
    """A handle to the application's controller. Raises ValueError while there is none."""
    return ray.get_actor(actor_name(app_name), namespace=NAMESPACE)


class ControllerKeeper:
    """Owns the actor: it is made here, restarted by Ray, and gone with the application."""

    def __init__(self) -> None:
        self._actor = (
            ray.remote(ControllerActor)
            .options(
                name=actor_name(serve.get_replica_context().app_name),
                namespace=NAMESPACE,
                num_cpus=0,
                max_restarts=-1,
                get_if_exists=True,
            )
            .remote()
        )

    async def check_health(self) -> None:
        """Asks for the snapshot, so a dead actor makes Serve replace the keeper too."""
        await self._actor.snapshot.remote()
