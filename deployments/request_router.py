"""The router of a model's targets, as Ray Serve's handles call it; `autoscale.routing` decides.

Serve copies this module into every process that holds a handle, globals and all: what a router
shares with its process stands in `deployments.pools`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from typing import Any

from ray.serve._private.common import RequestMetadata
from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    ReplicaResult,
    RequestRouter,
    RunningReplica,
)

from autoscale.pool_view import PoolView
from autoscale.prefixes import chunk_keys
from autoscale.request_cost import PREFILL_WORK, CostModel, RequestCost
from autoscale.routing import rank
from deployments.pools import register, replica_state
from deployments.request_headers import REFUSED_BY_HEADER, asker
from deployments.request_size import cache_space, request_size, request_text

_ANY_LENGTH = 1 << 30  # of an output that the client leaves open


class WorkRouter(RequestRouter):  # type: ignore[misc]
    """Sends each request where it will be done first, as far as can be told from here."""

    def initialize_state(self) -> None:
        self._costs = CostModel()
        self._random = random.Random()
        self._pool: PoolView = PoolView()
        register(self._deployment_id.name, self._pool)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        self._pool.keep(replica.replica_id.unique_id for replica in replicas)
        now_s = time.monotonic()
        for replica in replicas:
            state = replica_state(replica.routing_stats)
            if state is not None:
                self._pool.report(replica.replica_id.unique_id, state, now_s)
                self._costs.adopt(replica.routing_stats["lengths"])
        super().update_replicas(replicas)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._pool.keep(id_.unique_id for id_ in self.curr_replicas)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """One replica per rank: Serve goes on to the next where one is full or silent."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True
        work, prefix = self._work(pending_request), self._prefix(pending_request)
        headers = _headers(pending_request)
        by_id = {r.replica_id.unique_id: r for r in candidate_replicas}
        known = self._pool.answering(id_ for id_ in by_id if id_ in self._pool)
        candidates = self._pool.candidates(
            known,
            asker(headers),
            prefix,
            PREFILL_WORK * self._costs.prompt_tokens(1),
            time.monotonic(),
            headers.get(REFUSED_BY_HEADER, ""),
        )
        return [[by_id[known[i]]] for i in rank(candidates, work, self._random)]

    def _fulfill_next_pending_request(
        self, replica: RunningReplica, request_metadata: RequestMetadata | None = None
    ) -> None:
        """Book a request where it is chosen: the next one is chosen for in the same turn of the
        loop, and the replica's answer takes its time where it does not hang."""
        chosen_for = self._get_pending_request_matching_internal_request_id(request_metadata)
        super()._fulfill_next_pending_request(replica, request_metadata)
        if chosen_for is not None:
            self._pool.sent(
                replica.replica_id.unique_id,
                chosen_for.metadata.internal_request_id,
                self._work(chosen_for),
            )

    async def _choose_replica_for_request(
        self, pending_request: PendingRequest, *, is_retry: bool = False
    ) -> RunningReplica:
        """Whoever gets the replica tells once when the request has ended there, whatever became
        of it. Cancelled between the choice and this nobody gets it."""
        try:
            return await super()._choose_replica_for_request(pending_request, is_retry=is_retry)
        except asyncio.CancelledError:
            if not pending_request.future.cancelled():
                chosen: RunningReplica = pending_request.future.result()
                self.on_request_completed(
                    chosen.replica_id, pending_request.metadata.internal_request_id
                )
            raise

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: ReplicaResult
    ) -> None:
        self._pool.taken(
            replica_id.unique_id,
            pending_request.metadata.internal_request_id,
            self._prefix(pending_request),
        )

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._pool.ended(replica_id.unique_id, internal_request_id)

    def _work(self, pending: PendingRequest | None) -> float:
        request = _request(pending)
        if request is None:
            return 0.0
        size, class_name = request_size(request), asker(_headers(pending)).class_name
        return RequestCost(
            size.prompt_tokens(self._costs.prompt_tokens),
            self._costs.output_tokens(class_name, size.output_tokens(_ANY_LENGTH)),
            size.num_sequences,
        ).work

    @staticmethod
    def _prefix(pending: PendingRequest | None) -> list[bytes]:
        request = _request(pending)
        if request is None:
            return []
        return chunk_keys(request_text(request), cache_space(request))


def _request(pending: PendingRequest | None) -> Any:
    """The OpenAI request that is routed; None for other calls."""
    return pending.args[0] if pending is not None and pending.args else None


def _headers(pending: PendingRequest | None) -> Mapping[str, str]:
    """With which the ingress sent the request, in what comes second."""
    info = pending.args[1] if pending is not None and len(pending.args) > 1 else None
    return info.headers if info is not None else {}
