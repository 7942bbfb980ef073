"""The replica that stands in a target's place for an engine that somebody else launched.

It imports neither vLLM nor torch: any node that reaches the engine will do.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

from ray import serve

from autoscale.admission import ReplicaLimits
from autoscale.service_class import ServiceClass
from cluster.held_plan import HeldPlan
from cluster.load_report import replica_load
from cluster.messages import TargetReport
from cluster.observability.publisher import Publisher
from deployments.attach.endpoint import Endpoint
from deployments.attach.engine_metrics import EngineReading
from deployments.attach.relay import Relay
from deployments.attach.requests import EngineRequest
from deployments.attach.spec import ATTACHED, AttachedModelSpec
from deployments.attach.watch import EngineWatch
from deployments.chunk_pacing import Pace
from deployments.errors import ConfigError, EngineLostError
from deployments.exchange import exchange_forever
from deployments.pools import routing_stats
from deployments.refusal import TryLater
from deployments.replica_gate import ReplicaGate
from deployments.seated_requests import SEAT, UNSEATED, seated

DOWN_S = 2  # until a client may ask again of an engine that is not to be had
UNTOLD_EVERY = 20  # exchanges between looks for metrics that were not there


class AttachedServer:
    """Serves one model from one engine: the one of its rank among `model.attach.url`.

    Raises ConfigError where the engine does not answer, lists other models, or gives no token.
    """

    async def __init__(  # type: ignore[misc]
        self, model: AttachedModelSpec, promises: Mapping[str, ServiceClass]
    ) -> None:
        context = serve.get_replica_context()
        self._model, spec = model, model.attach
        self._replica_id = context.replica_id.unique_id
        self._pace = Pace()
        self._held = HeldPlan()
        self._counted: dict[str, int] | None = None  # by the last report, where that knew
        self._key = _key(spec.api_key_env)
        self._watched: asyncio.Task[None] | None = None
        await self._attach_to(_of_rank(spec.url, context.rank))
        limits = ReplicaLimits(
            seats=spec.max_num_seqs,
            kv_tokens=self._kv_tokens(),
            queued_requests=spec.max_queued_requests,
        )
        self._gate = ReplicaGate(limits, promises)
        self._exchange = asyncio.create_task(
            exchange_forever(
                context.app_name,
                self._held,
                Publisher("target", model=model.id, replica=self._replica_id),
                report=self._report,
                latencies=self._gate.take_latencies,
                readers=self._gate.readers,
            )
        )

    async def reconfigure(self, _: Any, rank: Any) -> None:
        """Serve has given this replica another rank: its engine is another one."""
        url = _of_rank(self._model.attach.url, rank)
        if url != self._endpoint.url:
            await self._attach_to(url)

    async def _attach_to(self, url: str) -> None:
        """Requests under way go on where they are."""
        spec = self._model.attach
        endpoint = Endpoint(url, self._model.their_name, self._key)
        try:
            card = await endpoint.wait(spec.wait_s)
            await endpoint.find_probe(spec.stall_limit_s)
            self._most_tokens = _most_tokens(url, spec.max_model_len, card.get("max_model_len"))
        except ConfigError:
            await endpoint.close()
            raise
        self._endpoint = endpoint
        self._said: EngineReading | str = await endpoint.metrics()
        self._kind = self._said.kind if isinstance(self._said, EngineReading) else None
        self._num_untold = 0
        self._counted = None
        self._relay = Relay(endpoint, self._model.id, counts_in_chunks=self._kind is not None)
        if self._watched is not None:
            self._watched.cancel()
        self._watch = EngineWatch(endpoint, spec.stall_limit_s)
        self._watched = asyncio.create_task(self._watch.forever())

    async def chat(self, request: EngineRequest, info: Any) -> AsyncGenerator[Any, None]:
        async with aclosing(self._run(request, info)) as answers:
            async for answer in answers:
                yield answer

    completions = embeddings = score = tokenize = detokenize = chat

    async def _run(self, request: EngineRequest, info: Any) -> AsyncGenerator[Any, None]:
        """What the engine answers, once the request has a seat; one `TryLater` where it gets
        none, and one where the engine is not to be had."""
        headers = info.headers if info is not None else {}

        async def run() -> AsyncGenerator[Any, None]:
            return self._relayed(request, headers)

        if request.method in UNSEATED or self._watch.down is not None:
            answers = await run()
        else:
            answers = seated(
                self._gate,
                request,
                headers,
                replica_id=self._replica_id,
                most_tokens=self._most_tokens,
                run=run,
            )
        async with aclosing(answers) as seen:
            async for answer in seen:
                yield answer

    async def _relayed(
        self, request: EngineRequest, headers: Mapping[str, str]
    ) -> AsyncGenerator[Any, None]:
        """Events of a stream come as lists, as those of `ray.serve.llm` do."""
        watch = self._watch
        if watch.down is not None:
            yield TryLater("engine_down", DOWN_S, self._replica_id, scope="everybody")
            return
        try:
            items = self._relay.ask(request, headers, SEAT.get())
            async with aclosing(self._pace.stream(items)) as messages:
                async for message in messages:
                    watch.saw_result()
                    first = message[0]
                    if isinstance(first, TryLater):
                        yield TryLater(first.reason, first.retry_after_s, self._replica_id)
                    else:
                        yield message if isinstance(first, str) else first
        except EngineLostError as error:
            watch.lost(str(error))
            raise

    async def _report(self) -> TargetReport:
        await self._read_metrics()
        counted: dict[str, int] = {}
        if isinstance(self._said, EngineReading):
            counted = self._said.counted()
        load = replica_load(
            self._gate.take_traffic(),
            self._model.attach.max_num_seqs,
            counted,
            counted if self._counted is None else self._counted,
        )
        self._counted = counted if "committed_tokens" in counted else None
        stats = counted | {"engine": self._engine(), "admission": self._gate.snapshot()}
        return TargetReport(
            self._replica_id,
            self._model.id,
            ATTACHED,
            os.getpid(),
            stats,
            load=load,
            held_plan=self._held.snapshot(),
        )

    async def _read_metrics(self) -> None:
        """In every exchange; where there have never been any, now and then."""
        if self._kind is None:
            self._num_untold += 1
            if self._num_untold % UNTOLD_EVERY:
                return
        if self._watch.down is not None:
            return
        before, self._said = self._said, await self._endpoint.metrics()
        if isinstance(self._said, EngineReading):
            self._kind = self._said.kind
            if isinstance(before, EngineReading) and before.progress != self._said.progress:
                self._watch.saw_result()

    def _engine(self) -> dict[str, Any]:
        """For `GET /fleet`: which engine it is, how it is, and what it does not tell."""
        watch, said = self._watch, self._said
        engine = {
            "url": self._endpoint.url,
            "model": self._endpoint.model,
            "down": watch.down,
            "down_s": round(watch.down_s, 1),
            "outages": watch.num_outages,
            "kind": self._kind,
            "no_metrics": said,
        }
        if isinstance(said, EngineReading):
            told = ("running", "waiting", "kv_usage", "kv_tokens", "acceptance_length")
            engine |= {name: getattr(said, name) for name in told} | {"no_metrics": None}
        return engine

    def _kv_tokens(self) -> float:
        said = self._said
        told = said.kv_tokens if isinstance(said, EngineReading) else None
        return told or math.inf

    async def record_routing_stats(self) -> dict[str, Any]:
        return routing_stats(self._gate.state(), self._gate.costs)

    async def check_health(self) -> None:
        """Of the replica, not of its engine: no restart of this would mend that."""
        if self._exchange.done():
            raise RuntimeError(f"attached {self._replica_id} stopped reporting to the fleet")
        if self._watched is None or self._watched.done():
            raise RuntimeError(f"nobody watches over the engine of {self._replica_id} any more")


def _of_rank(urls: tuple[str, ...], rank: Any) -> str:
    """The engine of Serve's `ReplicaRank`; while replicas are replaced there may be more."""
    place: int = rank.rank
    return urls[place % len(urls)]


def _key(name: str | None) -> str | None:
    if name is None:
        return None
    key = os.environ.get(name)
    if not key:
        raise ConfigError(
            f"attach.api_key_env: {name} is not set on {os.uname().nodename}; set it where the "
            "replicas run, before Ray starts there"
        )
    return key


def _most_tokens(url: str, asked: int | None, told: Any) -> int:
    """Prompt and output of one request. Raises ConfigError where nobody says."""
    if asked is not None and isinstance(told, int) and told < asked:
        raise ConfigError(
            f"{url} takes {told} tokens of prompt and output and attach.max_model_len is "
            f"{asked}; set it to {told}, or leave it out"
        )
    if asked is not None:
        return asked
    if not isinstance(told, int):
        raise ConfigError(f"{url} does not say its max_model_len; set attach.max_model_len")
    return told
