"""The HTTP front: `ray.serve.llm`'s OpenAI API, with the fleet's state beside it."""

from __future__ import annotations

from typing import Any

import ray
from fastapi import HTTPException
from ray import serve
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, init
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress

from deployments.controller import find_controller


class FleetIngress(OpenAiIngress):  # type: ignore[misc]
    """Adds `GET /fleet` to the OpenAI endpoints.

    Serve deploys what the ingress is bound to; controller and drafters are bound to it
    as `dependencies` for that alone.
    """

    def __init__(self, *, dependencies: list[Any], **kwargs: Any) -> None:
        del dependencies
        super().__init__(**kwargs)

    async def fleet(self) -> dict[str, Any]:
        """Replicas, drafter assignments and speculation totals; 503 without a controller."""
        try:
            controller = find_controller(serve.get_replica_context().app_name)
            snapshot: dict[str, Any] = await controller.snapshot.remote()
        except (ValueError, ray.exceptions.RayError) as error:
            raise HTTPException(503, f"the fleet controller does not answer: {error}") from None
        return snapshot


def make_ingress() -> Any:
    """The ingress class with its routes, ready to be a Serve deployment."""
    endpoints = {**DEFAULT_ENDPOINTS, "fleet": lambda app: app.get("/fleet")}
    return make_fastapi_ingress(FleetIngress, endpoint_map=endpoints, app=init())
