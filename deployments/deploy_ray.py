"""`deployments.deploy` on a running Ray cluster: Serve's controller, and Ray's free resources."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray import serve
from ray._private.state import available_resources_per_node
from ray.serve._private.common import ReplicaState
from ray.serve.context import _get_global_client
from ray.serve.schema import (
    ApplicationDetails,
    ServeApplicationSchema,
    ServeDeploySchema,
    ServeInstanceDetails,
)

from deployments.deploy import Replica, Seen
from deployments.errors import ConfigError
from deployments.rollout import Resources


class RayServe:
    """Serve on the cluster that this process is connected to."""

    def __init__(self) -> None:
        self._client: Any = _get_global_client()

    def running(self, app_name: str) -> ServeApplicationSchema | None:
        if self.seen(app_name).status != "RUNNING":
            return None
        configs = ray.get(self._client._controller.get_app_configs.remote())
        found: ServeApplicationSchema | None = configs.get(app_name)
        return found

    def free(self) -> list[Resources]:
        return [dict(node) for node in available_resources_per_node().values()]

    def send(self, schema: ServeDeploySchema) -> None:
        self._client.deploy_apps(schema)

    def seen(self, app_name: str) -> Seen:
        details = ServeInstanceDetails.model_validate(self._client.get_serve_details())
        return seen_of(details.applications.get(app_name))


def seen_of(app: ApplicationDetails | None) -> Seen:
    """Out of what Serve's controller says of an application."""
    if app is None:
        return Seen("NOT_STARTED")
    deployments = app.deployments
    return Seen(
        status=app.status.value,
        message=app.message,
        deployments={name: (one.status.value, one.message) for name, one in deployments.items()},
        replicas={
            replica.replica_id: Replica(
                name, replica.state is ReplicaState.RUNNING, replica.start_time_s
            )
            for name, one in deployments.items()
            for replica in one.replicas
        },
    )


@contextmanager
def running_serve(proxy_location: Any, http_options: dict[str, Any]) -> Iterator[RayServe]:
    """Serve is started where it is not. Raises ConfigError where no cluster lets us."""
    address = os.environ.get("RAY_ADDRESS", "auto")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises ConnectionError, RuntimeError and its own
        raise ConfigError(f"no Ray cluster answers: {error}") from None
    try:
        serve.start(proxy_location=proxy_location, http_options=http_options)
        yield RayServe()
    finally:
        ray.shutdown()
