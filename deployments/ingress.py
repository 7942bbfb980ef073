"""The HTTP front: `ray.serve.llm`'s OpenAI API, with the fleet's state beside it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import ray
from fastapi import Body, HTTPException, Request
from ray import serve
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, init
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse

from autoscale.controls import Controls
from deployments.canary import (
    canary_model,
    canary_name,
    deploy_canary,
    parse_canary,
    remove_canary,
)
from deployments.controller import find_controller
from deployments.errors import ConfigError
from deployments.schema import ModelSpec


class FleetIngress(OpenAiIngress):  # type: ignore[misc]
    """Adds `GET /fleet`, `PATCH /fleet/models/{id}` and its canary to the OpenAI endpoints.

    `adapters` are the LoRA adapters, `MODEL:NAME`, that every target of the model has
    loaded. Serve deploys what the ingress is bound to; controller and drafters are bound to
    it as `dependencies` for that alone.
    """

    def __init__(
        self,
        *,
        adapters: list[str],
        dependencies: list[Any],
        models: dict[str, ModelSpec],
        **kwargs: Any,
    ) -> None:
        del dependencies
        self._models = models
        super().__init__(**kwargs)
        for adapter in adapters:
            model_id, _, _ = adapter.partition(":")
            # To the model's own handle: loaded everywhere, so any replica will do.
            self._configured_serve_handles[adapter] = self._get_configured_serve_handle(model_id)
            card = self._model_cards[model_id]
            self._model_cards[adapter] = card.model_copy(update={"id": adapter})
        self._adapters = frozenset(adapters)

    async def _get_model_id(self, model: str | None) -> str:
        """The model asked for, or the only one. Raises 404 for one that is not served."""
        if model is None:
            models = self._model_cards.keys() - self._adapters
            model = next(iter(models)) if len(models) == 1 else None
        model_id: str = await super()._get_model_id(model)
        if model_id not in self._model_cards:
            raise HTTPException(404, f"The model {model_id!r} does not exist.")
        return model_id

    async def fleet(self) -> dict[str, Any]:
        """Replicas, drafter assignments and speculation totals; 503 without a controller."""
        snapshot: dict[str, Any] = await self._controller("snapshot")
        return snapshot

    async def change(
        self, model_id: str, changes: Annotated[dict[str, Any], Body()]
    ) -> dict[str, Any]:
        """Change a model while it serves: `autoscale.controls.Controls`, null takes one back.

        400 for a change that cannot be, 404 where no target of the model drafts. Targets
        follow within one exchange, and `GET /fleet` shows what each goes by. A restart of
        the application forgets it.
        """
        try:
            Controls().changed(changes)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        controls = await self._controller("change", model_id, changes)
        if controls is None:
            raise HTTPException(404, f"no target of a model {model_id!r} drafts")
        if "refused" in controls:
            raise HTTPException(400, controls["refused"])
        return {"model": model_id, "controls": controls}

    async def start_canary(
        self, model_id: str, body: Annotated[dict[str, Any], Body()]
    ) -> dict[str, Any]:
        """Try a new drafter on a share of a model's sessions (`deployments.canary.CanarySpec`).

        400 for one that cannot be tried, 404 for a model that is not served, 409 while another
        is on trial. `GET /fleet` shows how it does; its targets are left as they are.
        """
        if model_id not in self._models:
            raise HTTPException(404, f"The model {model_id!r} does not exist.")
        app_name = serve.get_replica_context().app_name
        try:
            spec = parse_canary(body)
            tried = await asyncio.to_thread(canary_model, self._models[model_id], spec)
            name = await asyncio.to_thread(canary_name, tried)
        except ConfigError as error:
            raise HTTPException(400, str(error)) from None
        begun = await self._controller("start_canary", model_id, name, spec.share, spec.rule)
        if begun is None:
            raise HTTPException(409, f"no target of {model_id!r} has reported yet; try again")
        if "refused" in begun:
            raise HTTPException(409, begun["refused"])
        await asyncio.to_thread(deploy_canary, app_name, tried)
        return {"model": model_id, "canary": begun}

    async def stop_canary(self, model_id: str) -> dict[str, Any]:
        """End a canary, on trial or promoted: sessions go to the model's own drafters."""
        if not await self._controller("stop_canary", model_id):
            raise HTTPException(404, f"the model {model_id!r} has no canary")
        await asyncio.to_thread(remove_canary, serve.get_replica_context().app_name, model_id)
        return {"model": model_id, "canary": None}

    async def _controller(self, method: str, *args: Any) -> Any:
        try:
            controller = find_controller(serve.get_replica_context().app_name)
            return await getattr(controller, method).remote(*args)
        except (ValueError, ray.exceptions.RayError) as error:
            raise HTTPException(503, f"the fleet controller does not answer: {error}") from None


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
    endpoints = {
        **DEFAULT_ENDPOINTS,
        "fleet": lambda app: app.get("/fleet"),
        "change": lambda app: app.patch("/fleet/models/{model_id:path}"),
        "start_canary": lambda app: app.post("/fleet/models/{model_id:path}/canary"),
        "stop_canary": lambda app: app.delete("/fleet/models/{model_id:path}/canary"),
    }
    return make_fastapi_ingress(FleetIngress, endpoint_map=endpoints, app=app)
