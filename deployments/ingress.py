"""The HTTP front: `ray.serve.llm`'s OpenAI API, with the fleet's state beside it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

from fastapi import Body, HTTPException, Request
from ray import serve
from ray.llm._internal.serve.core.configs.openai_api_models import (
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS, init
from ray.llm._internal.serve.core.protocol import RawRequestInfo
from ray.serve._private.http_util import session_id_from_headers
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import HTMLResponse, JSONResponse, Response

from autoscale.controls import Controls
from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused
from autoscale.quota import added, by_tenant
from autoscale.service_class import ServiceClass
from cluster.messages import IngressPlan, IngressReport
from cluster.observability.publisher import Publisher
from cluster.observability.samples import ingress_samples
from cluster.pace import next_in_s
from deployments.attach.answers import EngineAnswer
from deployments.attach.passing_on import EngineRefusedError, engine_request, passed_on
from deployments.attach.requests import EngineRequest
from deployments.callers import ASKING, Asking, Callers, IdentifyCallers
from deployments.canary import (
    canary_model,
    canary_name,
    deploy_canary,
    parse_canary,
)
from deployments.canary_apps import remove_canary
from deployments.client_xargs import check_xargs
from deployments.continuation import Delivered
from deployments.controller_link import ControllerLink, NoAnswerError
from deployments.denial import DENIED
from deployments.errors import ConfigError
from deployments.failover import PATIENCE_S, FailoverCounts, NoTargetError, answered, streamed
from deployments.fleet_page import PAGE_PATH, fleet_page
from deployments.left_streams import cancelled_when_left, closed_at_its_end
from deployments.metering import OverQuotaError, accounts_here, metered, usage_told
from deployments.openai_errors import error_response
from deployments.plain_bodies import read_out
from deployments.pools import POOLS, refuse_unread, someone_lives
from deployments.refusal import REFUSED, RefusedByAllError, RefuseWhenFull, TryLater
from deployments.request_headers import (
    ELSEWHERE_HEADER,
    INGRESS_HEADER,
    REFUSED_BY_HEADER,
    UNSEEN_HEADER,
    WAITED_HEADER,
    asker,
    with_headers,
)
from deployments.request_limits import (
    BeyondLimitsError,
    BoundBodies,
    LimitSpec,
    check_limits,
)
from deployments.request_log import LogFile, RequestLog
from deployments.resumption import RESUME
from deployments.schema import AttachedModelSpec, ModelSpec
from deployments.seated_requests import UNSEATED
from deployments.taking import TakenInTime
from deployments.tracing.span import span_of
from deployments.tracing.spec import TracingSpec
from deployments.tracing.start import tracing_of
from deployments.tracing.traced_requests import TraceRequests, carrying
from deployments.two_targets import COME_BACK_S, Terms, of_two_targets

SERVICE = "dspark-ingress"  # in traces
_AT_CAPACITY = "All replicas of this model have as many requests as they can hold; try again in 1 s"
_FLEET_S = 10.0  # that a client waits for the controller at most
logger = logging.getLogger(__name__)


class FleetIngress(OpenAiIngress):  # type: ignore[misc]
    """Adds `GET /fleet`, its page, `PATCH /fleet/models/{id}` and its canary, and
    `GET /v1/usage`, to the OpenAI endpoints.

    `adapters` are the LoRA adapters, `MODEL:NAME`, that every target of the model has
    loaded, `promises` the service classes by name. Serve deploys what the ingress is bound to;
    controller and drafters are bound to it as `dependencies` for that alone.
    """

    def __init__(
        self,
        *,
        adapters: list[str],
        dependencies: list[Any],
        models: dict[str, ModelSpec | AttachedModelSpec],
        promises: Mapping[str, ServiceClass],
        limits: LimitSpec,
        num_ingresses: int,
        tracing: TracingSpec | None = None,
        **kwargs: Any,
    ) -> None:
        del dependencies
        self._models = models
        self._promises = promises
        self._limits = limits
        self._num_ingresses = num_ingresses
        self._accounts = accounts_here(num_ingresses)
        self._tracing = tracing
        tracing_of(tracing, SERVICE)  # imported before a request waits for it
        super().__init__(**kwargs)
        for adapter in adapters:
            model_id, _, _ = adapter.partition(":")
            # To the model's own handle: loaded everywhere, so any replica will do.
            self._configured_serve_handles[adapter] = self._get_configured_serve_handle(model_id)
            card = self._model_cards[model_id]
            self._model_cards[adapter] = card.model_copy(update={"id": adapter})
        self._adapters = frozenset(adapters)
        self._counts = FailoverCounts()
        self._replica_id = serve.get_replica_context().replica_id.unique_id
        self._controller = ControllerLink(serve.get_replica_context().app_name)
        self._reports = asyncio.get_running_loop().create_task(self._report_forever())

    async def _report_forever(self) -> None:
        replica_id = self._replica_id
        metrics, plan = Publisher("ingress", replica=replica_id), IngressPlan()
        while True:
            counts, books = asdict(self._counts), self._accounts.books()
            report = IngressReport(replica_id, os.getpid(), **counts, usage=books)
            metrics.publish(ingress_samples(report, REFUSED, DENIED))
            try:
                plan = await self._controller.ask("report_ingress", report)
            except NoAnswerError as error:
                logger.info("no controller to report to yet: %s", error)
            except Exception:  # streams run through here, which know nothing of reports
                logger.exception("a report to the controller failed")
            await asyncio.sleep(next_in_s(plan.interval_s))

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
        """What a target answers, and when it is lost the next one (`deployments.failover`).

        Raises 429 with `Retry-After` for a request that two targets refused, or that all
        targets of its model would, or that is over its key's quota; 400 for one beyond limits.
        """
        assert raw_request is not None, "every endpoint hands its request over"
        asking: Asking = raw_request.scope[ASKING]
        pool = await self._pool(body.model)
        is_ours = isinstance(await self._model(body.model), ModelSpec)
        for_engine: EngineRequest | None = None
        try:
            check_xargs(body)
            body = read_out(body)
            check_limits(self._limits, body)
            if not is_ours:
                for_engine = await engine_request(call_method, raw_request, body)
        except BeyondLimitsError as error:
            DENIED["beyond_limits"] += 1
            raise HTTPException(400, str(error)) from None
        except ValueError as error:
            raise HTTPException(400, str(error)) from None

        span_of(raw_request.scope).note({"gen_ai.request.model": body.model or ""})

        def ask(request: Any) -> AsyncGenerator[Any, None]:
            return self._ask(for_engine or request, call_method, raw_request, pool)

        delivered = Delivered(body, is_ours=is_ours) if getattr(body, "stream", False) else None
        if delivered is not None:
            answer = streamed(ask, delivered, self._counts)
        else:
            answer = answered(ask, body, self._counts)
        most_tokens = await self._most_tokens(body.model)
        try:
            async with (
                metered(asking.account, body, delivered, most_tokens) as meter,
                aclosing(answer) as items,
            ):
                if call_method in UNSEATED:
                    meter.free()
                async for item in items:
                    meter.saw(item)
                    yield item
        except OverQuotaError as error:
            DENIED["over_quota"] += 1
            headers = {"Retry-After": str(error.retry_after_s)}
            raise HTTPException(429, str(error), headers=headers) from None
        except RefusedByAllError as error:
            REFUSED[error.refusal.reason] += 1
            status, headers = error.refusal.status, error.refusal.headers
            raise HTTPException(status, str(error), headers=headers) from None
        except NoTargetError as error:
            raise HTTPException(503, f"{error}; try again") from None
        except BackPressureError:
            raise HTTPException(429, _AT_CAPACITY, headers={"Retry-After": "1"}) from None
        except DeploymentUnavailableError as error:
            raise HTTPException(503, f"{error}; see dspark status") from None

    async def _ask(
        self,
        body: Any,
        call_method: str,
        raw_request: Request,
        pool: PoolView,
    ) -> AsyncGenerator[Any, None]:
        """The answer of a target that takes a request before its class's first token is due; one
        that goes on has time. Raises RefusedByAllError."""
        continues, began_s = _continues(body), time.monotonic()
        line = asker(raw_request.headers)
        patience_s = min(self._promises[line.class_name].ttft_s, PATIENCE_S)
        num_unseen = None
        if call_method not in UNSEATED and not continues:
            await _someone_lives(pool, patience_s)
            self._refuse_where_all_do(pool, line)
            num_unseen = pool.take_unseen(time.monotonic())
        answer = of_two_targets(
            partial(self._attempt, body, call_method, raw_request),
            pool,
            line,
            partial(self._turned_away, pool, line),
            began_s=began_s,
            patience_s=None if continues else patience_s,
            num_unseen=num_unseen,
        )
        async with aclosing(answer) as items:
            async for item in items:
                yield item

    async def _attempt(
        self, body: Any, call_method: str, raw_request: Request, terms: Terms
    ) -> AsyncGenerator[Any, None]:
        """One target's answer, as `OpenAiIngress` asks for it, whichever Serve chooses; left early
        it is cancelled. Raises NotTakenError."""
        told = {
            INGRESS_HEADER: self._replica_id,
            ELSEWHERE_HEADER: str(int(terms.goes_elsewhere)),
            REFUSED_BY_HEADER: terms.refused_by,
            UNSEEN_HEADER: str(terms.num_unseen),
            WAITED_HEADER: repr(terms.waited_s),
        }
        span = span_of(raw_request.scope)
        noted = {"dspark.resumes": _continues(body)}  # the answer may go on with another's
        with span.child("target attempt", noted, "client") as attempt:
            carried = carrying(with_headers(raw_request, told), attempt)
            call = await self._call(body, call_method, carried, terms.within_s)
            async with aclosing(call) as answers:
                async for answer in answers:
                    if isinstance(answer, TryLater):
                        attempt.fail(answer.reason)
                    is_engines = isinstance(answer, EngineAnswer)
                    yield passed_on(call_method, answer) if is_engines else answer

    async def _call(
        self, body: Any, call_method: str, raw_request: Request, within_s: float | None
    ) -> AsyncGenerator[Any, None]:
        """What Serve brings of a target; left early it is cancelled. Raises NotTakenError."""
        handle = self._get_configured_serve_handle(await self._get_model_id(body.model))
        session_id = session_id_from_headers(raw_request.headers)
        if session_id:
            handle = handle.options(session_id=session_id)
        info = RawRequestInfo.from_starlette_request(raw_request)
        call = TakenInTime(getattr(handle, call_method).remote(body, info), within_s)
        return cancelled_when_left(call)

    def _refuse_where_all_do(self, pool: PoolView, line: Flow) -> None:
        """Raises RefusedByAllError where every target has refused the line a moment ago."""
        now_s = time.monotonic()
        soonest = pool.refused_by_all(line, now_s)
        if soonest is not None:
            pool.refused_unseen(now_s)
            raise self._turned_away(pool, line, soonest)

    def _turned_away(self, pool: PoolView, line: Flow, refused: Refused) -> RefusedByAllError:
        promised = self._promises[line.class_name]
        now_s = time.monotonic()
        told = pool.turn_away(line, promised, refused, now_s, self._num_ingresses)
        return RefusedByAllError(TryLater(told.reason, told.retry_after_s))

    async def _process_llm_request(
        self, body: Any, call_method: str, raw_request: Request | None = None
    ) -> Response:
        response: Response = await super()._process_llm_request(body, call_method, raw_request)
        return closed_at_its_end(response)

    async def _pool(self, model: str | None) -> PoolView:
        """What is known here of a model's targets. Raises 404 for one that is not served."""
        handle = self._get_configured_serve_handle(await self._get_model_id(model))
        return POOLS.get(handle.deployment_name) or PoolView()

    async def _model(self, model: str | None) -> ModelSpec | AttachedModelSpec:
        """The settings of a model, or of that of an adapter. Raises 404."""
        model_id, _, _ = (await self._get_model_id(model)).partition(":")
        return self._models[model_id]

    async def _most_tokens(self, model: str | None) -> float:
        """What one output of a model comes to at most, as far as is known here."""
        one = await self._model(model)
        if isinstance(one, ModelSpec):
            return one.target.max_model_len
        return one.attach.max_model_len or math.inf

    async def tokenize(
        self, body: TokenizeCompletionRequest | TokenizeChatRequest, request: Request
    ) -> Response:
        """Token ids of a prompt or, by the model's template, of a conversation, which Ray's own
        ingress leaves out."""
        response: Response = await super().tokenize(body, request)
        return response

    async def usage(self, request: Request) -> dict[str, Any]:
        """What the asking key has used of all ingresses since the controller began, and its quota.

        An admin's key, and everybody where there are no keys, sees all tenants. 503 without a
        controller.
        """
        caller = request.scope[ASKING].caller
        replica_id = serve.get_replica_context().replica_id.unique_id
        elsewhere = await self._asked_controller("usage_elsewhere", replica_id)
        books = added([self._accounts.books(), elsewhere])
        usage = {"tenant": caller.tenant} | usage_told(caller.key, books)
        tenants = {name: asdict(used) for name, used in by_tenant(books).items()}
        return usage | ({"tenants": tenants} if caller.is_admin else {})

    async def fleet(self) -> dict[str, Any]:
        """Replicas, drafter assignments and speculation totals; 503 without a controller."""
        snapshot: dict[str, Any] = await self._asked_controller("snapshot")
        return snapshot

    async def fleet_page(self) -> HTMLResponse:
        """What `GET /fleet` says, as a page."""
        return fleet_page()

    async def change(
        self, model_id: str, changes: Annotated[dict[str, Any], Body()]
    ) -> dict[str, Any]:
        """Change a model while it serves: `autoscale.controls.Controls`, null takes one back.

        400 for a change that cannot be, as of an attached model, 404 where no target of the
        model drafts. Targets follow within one exchange, and `GET /fleet` shows what each goes
        by. A restart of the application forgets it.
        """
        self._refuse_attached(model_id, "controls")
        try:
            Controls().changed(changes)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        controls = await self._asked_controller("change", model_id, changes)
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
        model = self._refuse_attached(model_id, "canaries")
        app_name = serve.get_replica_context().app_name
        try:
            spec = parse_canary(body)
            tried = await asyncio.to_thread(canary_model, model, spec)
            name = await asyncio.to_thread(canary_name, tried)
        except ConfigError as error:
            raise HTTPException(400, str(error)) from None
        begun = await self._asked_controller("start_canary", model_id, name, spec.share, spec.rule)
        if begun is None:
            raise HTTPException(409, f"no target of {model_id!r} has reported yet; try again")
        if "refused" in begun:
            raise HTTPException(409, begun["refused"])
        await asyncio.to_thread(deploy_canary, app_name, tried, self._tracing)
        return {"model": model_id, "canary": begun}

    async def stop_canary(self, model_id: str) -> dict[str, Any]:
        """End a canary, on trial or promoted: sessions go to the model's own drafters.

        Its replicas go also where the controller has forgotten it. 404 where there is neither.
        """
        is_known = await self._asked_controller("stop_canary", model_id)
        app_name = serve.get_replica_context().app_name
        is_removed = await asyncio.to_thread(remove_canary, app_name, model_id)
        if not (is_known or is_removed):
            raise HTTPException(404, f"the model {model_id!r} has no canary")
        return {"model": model_id, "canary": None}

    def _refuse_attached(self, model_id: str, what: str) -> Any:
        """The model, None for an unknown one. Raises 400 for one whose engine is not ours."""
        model = self._models.get(model_id)
        if isinstance(model, AttachedModelSpec):
            raise HTTPException(
                400,
                f"{what} need our worker in the engine, and that of {model_id} is attached: "
                "restart it as its own command has it, or have it launched here, with target "
                "instead of attach",
            )
        return model

    async def _asked_controller(self, method: str, *args: Any) -> Any:
        try:
            return await self._controller.ask(method, *args, within_s=_FLEET_S)
        except NoAnswerError as error:
            raise HTTPException(503, f"the fleet controller does not answer: {error}") from None


def _continues(body: Any) -> bool:
    """Whether a request takes up the stream of a target that was lost."""
    return RESUME in (getattr(body, "vllm_xargs", None) or {})


async def _someone_lives(pool: PoolView, patience_s: float) -> None:
    """Wait for a replica where there is none. Raises RefusedByAllError after `patience_s`."""
    if not await someone_lives(pool, patience_s):
        pool.refused_unseen(time.monotonic())
        raise RefusedByAllError(TryLater("no_target", COME_BACK_S))


async def openai_error(request: Request, error: Exception) -> JSONResponse:
    """FastAPI's own errors (no such model, no such path) in the OpenAI error shape."""
    assert isinstance(error, StarletteHTTPException)
    if isinstance(error, EngineRefusedError):
        return JSONResponse(error.body, error.status_code)
    return error_response(error.status_code, str(error.detail), error.headers)


def make_ingress(
    callers: Callers,
    promises: Mapping[str, ServiceClass],
    limits: LimitSpec,
    num_ingresses: int,
    request_log: str | None = None,
    tracing: TracingSpec | None = None,
) -> Any:
    """The ingress class with its routes, ready to be a Serve deployment.

    A request passes the middleware in the other order: who is it, is there room, its body.
    With a `request_log` directory requests of known callers are logged there; with `tracing`
    some of them are traced.
    """
    app = init()
    app.add_middleware(BoundBodies, limits=limits)
    app.add_middleware(RefuseWhenFull, refuse=partial(refuse_unread, promises, num_ingresses))
    if request_log is not None:
        app.add_middleware(RequestLog, write=LogFile(request_log))
    if tracing is not None:
        begun = partial(tracing_of, tracing, SERVICE)
        app.add_middleware(TraceRequests, tracing=begun, sample=tracing.sample)
    accounts = partial(accounts_here, num_ingresses)
    app.add_middleware(IdentifyCallers, callers=callers, accounts=accounts)
    app.add_exception_handler(StarletteHTTPException, openai_error)
    endpoints = {
        **DEFAULT_ENDPOINTS,
        "fleet": lambda app: app.get("/fleet"),
        "usage": lambda app: app.get("/v1/usage"),
        "fleet_page": lambda app: app.get(PAGE_PATH, include_in_schema=False),
        "change": lambda app: app.patch("/fleet/models/{model_id:path}"),
        "start_canary": lambda app: app.post("/fleet/models/{model_id:path}/canary"),
        "stop_canary": lambda app: app.delete("/fleet/models/{model_id:path}/canary"),
    }
    return make_fastapi_ingress(FleetIngress, endpoint_map=endpoints, app=app)
