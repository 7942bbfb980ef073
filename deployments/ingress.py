"""The HTTP front: `ray.serve.llm`'s OpenAI API, with the fleet's state beside it."""

from __future__ import annotations

from typing import Any

import ray
from fastapi import HTTPException, Request
from ray import serve
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, init
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse

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


async def openai_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own errors (no such model, no such path) in the OpenAI error shape."""
    assert isinstance(error, StarletteHTTPException)
    kind = "NotFoundError" if error.status_code == 404 else "BadRequestError"
    if error.status_code >= 500:
        kind = "InternalServerError"
    body = {"message": str(error.detail), "type": kind, "param": None, "code": error.status_code}
    return JSONResponse({"error": body}, error.status_code, headers=error.headers)


def make_ingress() -> Any:
    """The ingress class with its routes, ready to be a Serve deployment."""
    app = init()
    app.add_exception_handler(StarletteHTTPException, openai_error)
    endpoints = {**DEFAULT_ENDPOINTS, "fleet": lambda app: app.get("/fleet")}
    return make_fastapi_ingress(FleetIngress, endpoint_map=endpoints, app=app)
