"""The HTTP front: `ray.serve.llm`'s OpenAI API, with the fleet's state beside it."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any

import ray
from fastapi import Body, HTTPException, Request
from ray import serve
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, init
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import JSONResponse

from autoscale.controls import Controls
from cluster.messages import IngressReport
from deployments.controller import INTERVAL_S, find_controller
from deployments.failover import FailoverCounts, NoTargetError, answered, streamed
from deployments.plain_bodies import read_out
from deployments.resumption import RESUME

logger = logging.getLogger(__name__)


class FleetIngress(OpenAiIngress):  # type: ignore[misc]
    """Adds `GET /fleet` and `PATCH /fleet/models/{id}` to the OpenAI endpoints.

    `adapters` are the LoRA adapters, `MODEL:NAME`, that every target of the model has
    loaded. Serve deploys what the ingress is bound to; controller and drafters are bound to
    it as `dependencies` for that alone.
    """

    def __init__(self, *, adapters: list[str], dependencies: list[Any], **kwargs: Any) -> None:
        del dependencies
        super().__init__(**kwargs)
        for adapter in adapters:
            model_id, _, _ = adapter.partition(":")
            # To the model's own handle: loaded everywhere, so any replica will do.
            self._configured_serve_handles[adapter] = self._get_configured_serve_handle(model_id)
            card = self._model_cards[model_id]
            self._model_cards[adapter] = card.model_copy(update={"id": adapter})
        self._adapters = frozenset(adapters)
        self._counts = FailoverCounts()
        self._reports = asyncio.get_running_loop().create_task(self._report_forever())

    async def _report_forever(self) -> None:
        context = serve.get_replica_context()
        while True:
            report = IngressReport(
                context.replica_id.unique_id, os.getpid(), **asdict(self._counts)
            )
            try:
                await find_controller(context.app_name).report_ingress.remote(report)
            except (ValueError, ray.exceptions.RayError) as error:
                logger.info("no controller to report to yet: %s", error)
            await asyncio.sleep(INTERVAL_S)

    async def check_health(self) -> None:
        if self._reports.done():
            raise RuntimeError("the ingress stopped reporting to the fleet")

    async def _get_model_id(self, model: str | None) -> str:
        """The model asked for, or the only one. Raises 404 for one that is not served."""
        if model is None:
            models = self._model_cards.keys() - self._adapters
            model = next(iter(models)) if len(models) == 1 else None
        model_id: str = await super()._get_model_id(model)
        if model_id not in self._model_cards:
            raise HTTPException(404, f"The model {model_id!r} does not exist.")
        return model_id

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None]:
        """What a target answers, and when it is lost the next one (`deployments.failover`)."""
        if RESUME in (getattr(body, "vllm_xargs", None) or {}):
            raise HTTPException(400, f"vllm_xargs: {RESUME} is not for requests; leave it out")
        try:
            body = read_out(body)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        ask_target = super()._get_response

        def ask(request: Any) -> AsyncGenerator[Any, None]:
            answer: AsyncGenerator[Any, None] = ask_target(
                body=request, call_method=call_method, raw_request=raw_request
            )
            return answer

        outlive = streamed if getattr(body, "stream", False) else answered
        try:
            async with aclosing(outlive(ask, body, self._counts)) as items:
                async for item in items:
                    yield item
        except NoTargetError as error:
            raise HTTPException(503, f"{error}; try again") from None

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
    }
    return make_fastapi_ingress(FleetIngress, endpoint_map=endpoints, app=app)
