"""A model with attached engines as a Serve deployment: a replica per engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from autoscale.service_class import ServiceClass
from deployments.attach.server import AttachedServer
from deployments.attach.spec import AttachedModelSpec
from deployments.placement import QUIET


def bind_attached(
    model: AttachedModelSpec,
    promises: Mapping[str, ServiceClass],
    deployment_options: Mapping[str, Any],
) -> Application:
    """Named as targets are: for routers, dashboards and alerts it is one."""
    return serve.deployment(
        AttachedServer,
        name=f"Target:{model.id}",
        num_replicas=len(model.attach.url),
        ray_actor_options={"num_cpus": model.attach.num_cpus},
        logging_config=QUIET,
        **deployment_options,
    ).bind(model, promises)
