"""The gate of a replica: requests come in here, and have a seat when they come out.

`autoscale.admission` decides; here its decisions become coroutines that wait, are refused or
are cancelled. All of it runs in one event loop. Whoever is cancelled, queued or seated, has
left before the cancellation goes on.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from autoscale.admission import Admission, Refusal, ReplicaLimits, Ticket
from autoscale.class_counts import ClassCounts, Latency
from autoscale.demand import Demand
from autoscale.fleet_step_cost import StepCostReport
from autoscale.pool_view import ReplicaState
from autoscale.request_cost import CostModel, RequestCost
from autoscale.seat_capacity import SeatCapacity
from autoscale.service_class import ServiceClass
from cluster.load_report import Traffic
from deployments.readers import Readers

_OBSERVE_S = 0.25


class RefusedError(Exception):
    """There is no seat for this request in time."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


class Seat:
    """A place in the engine's batch, told of by whoever sees the request's tokens."""

    def __init__(
        self,
        ticket: Ticket,
        saw_tokens: Callable[[Ticket, int], None],
        saw_whole: Callable[[Ticket, int], None],
    ) -> None:
        self._saw_tokens = saw_tokens
        self._saw_whole = saw_whole
        self.ticket = ticket
        self.is_whole = False  # set when the request ended by itself
        self.has_left = False
        self.prompt_tokens: int | None = None  # as counted by the engine

    def saw_tokens(self, num_tokens: int) -> None:
        """Some came out of the engine. For a request that has left it is too late."""
        if not self.has_left:
            self._saw_tokens(self.ticket, num_tokens)

    def saw_whole(self, num_tokens: int) -> None:
        """All came at once, from an engine that does not say when the first one was made."""
        if not self.has_left:
            self._saw_whole(self.ticket, num_tokens)


class ReplicaGate:
    """`classes` by name, the default one first."""

    def __init__(
        self,
        limits: ReplicaLimits,
        classes: Mapping[str, ServiceClass],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.costs = CostModel()
        self.readers = Readers()
        self.step_costs: StepCostReport | None = None  # of its engine, where they are learned
        self._admission = Admission(limits)
        self._classes = classes
        self._demand = Demand()
        self._counts = ClassCounts(classes.values())
        self._clock = clock
        self._num_states = 0
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._observed_s = self._taken_s = clock()
        self._arrived = self._tokens = 0
        self._prompt_tokens = 0.0

    def known_class(self, name: str | None) -> str:
        """`name` where there is such a class, else the default one."""
        if name is not None and name in self._classes:
            return name
        return next(iter(self._classes))

    @asynccontextmanager
    async def seat(
        self,
        class_name: str,
        tenant: str,
        cost: RequestCost,
        *,
        age_s: float = 0.0,
        continues: bool = False,
        goes_elsewhere: bool = False,
        num_unseen: int = 0,
    ) -> AsyncIterator[Seat]:
        """A seat for as long as the context lasts, for a request that is `age_s` old already.

        One that `continues` a lost target's stream is not refused. One that `goes_elsewhere` when
        it is counts there. `num_unseen` requests were refused before this one came, and no
        replica saw them: they are demand, too.
        Raises RefusedError instead of a seat too late.
        """
        now_s = self._clock()
        one = self._classes[class_name]
        ticket = Ticket(one, tenant, cost, now_s - age_s, continues, goes_elsewhere)
        self._demand.arrived(num_unseen, now_s)
        self._arrived += num_unseen
        refusal = self._admission.offer(ticket, now_s)
        if refusal is not None:
            self._shed(ticket, refusal)
            raise RefusedError(refusal)
        seat = Seat(ticket, self._saw_tokens, self._saw_whole)
        try:
            if ticket.seated_s is None:
                await self._called(ticket)
            else:
                self._admitted(ticket)
                self._advance()
            yield seat
        finally:
            self._leave(seat)

    async def _called(self, ticket: Ticket) -> None:
        """Until the ticket is seated. Raises RefusedError when its time is up."""
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = called
        self._advance()
        await called

    def _admitted(self, ticket: Ticket) -> None:
        self._counts.admitted(ticket)
        self._came(ticket)

    def _shed(self, ticket: Ticket, refusal: Refusal) -> None:
        if not ticket.goes_elsewhere:
            self._counts.shed(ticket, refusal.reason)
            self._came(ticket)

    def _came(self, ticket: Ticket) -> None:
        """It is demand, once; a stream that continues was so where it began."""
        if not ticket.continues:
            self._demand.arrived(ticket.cost.num_sequences, self._clock())
            self._arrived += 1
            self._prompt_tokens += ticket.cost.prompt_tokens

    def _leave(self, seat: Seat) -> None:
        ticket = seat.ticket
        seat.has_left = True
        now_s = self._clock()
        called = self._waiting.pop(ticket, None)
        if ticket.seated_s is not None:
            self._counts.ended(ticket, now_s, is_whole=seat.is_whole)
            if not ticket.continues:
                self._demand.left(now_s - ticket.seated_s)
                self._learn_output(seat)
        elif called is not None:  # still queued: cancelled
            self._counts.gave_up(ticket)
            self._came(ticket)
        self._admission.leave(ticket, now_s)
        self._advance()

    def _learn_output(self, seat: Seat) -> None:
        ticket = seat.ticket
        if seat.is_whole and ticket.output_tokens:
            per_sequence = ticket.output_tokens / ticket.cost.num_sequences
            self.costs.record_output(ticket.service_class.name, per_sequence)

    def _advance(self) -> None:
        """Let the admission decide again: now, when the next one's time is up, and for as long
        as somebody is here at every observation."""
        admission, now_s = self._admission, self._clock()
        if now_s - self._observed_s >= _OBSERVE_S:
            admission.observe(now_s)
            self._observed_s = now_s
        changes = admission.advance(now_s)
        for ticket in changes.seated:
            self._admitted(ticket)
            self._call(ticket, None)
        for ticket, refusal in changes.refused:
            self._shed(ticket, refusal)
            self._call(ticket, RefusedError(refusal))
        observe_in_s = _OBSERVE_S if admission.running or admission.waiting else math.inf
        self._set_timer(min(admission.next_deadline_s() - now_s, observe_in_s))

    def _call(self, ticket: Ticket, refused: RefusedError | None) -> None:
        called = self._waiting.pop(ticket)
        if called.done():  # cancelled in this very turn of the loop: it leaves by itself
            return
        if refused is None:
            called.set_result(None)
        else:
            called.set_exception(refused)

    def _set_timer(self, in_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        if not math.isinf(in_s):
            # Not before the deadline, whatever the loop's clock rounds to.
            self._timer = asyncio.get_running_loop().call_later(
                max(in_s, 0.0) + 1e-3, self._advance
            )

    def _saw_tokens(self, ticket: Ticket, num_tokens: int) -> None:
        self._tokens += num_tokens
        self._admission.record_tokens(ticket, num_tokens, self._clock())

    def _saw_whole(self, ticket: Ticket, num_tokens: int) -> None:
        self._tokens += num_tokens
        self._admission.record_whole(ticket, num_tokens)

    def take_traffic(self) -> Traffic:
        """For the controller; rates start again, outcomes fade."""
        admission, now_s = self._admission, self._clock()
        elapsed_s = max(now_s - self._taken_s, 1e-3)
        traffic = Traffic(
            elapsed_s,
            self._arrived / elapsed_s,
            self._prompt_tokens / elapsed_s,
            self._tokens / elapsed_s,
            admission.running,
            admission.waiting,
            admission.unread_tokens + admission.queued_prompt_tokens,
            self._counts.take_outcomes(),
        )
        self._taken_s = now_s
        self._arrived = self._tokens = 0
        self._prompt_tokens = 0.0
        return traffic

    def take_latencies(self) -> list[Latency]:
        """Of requests that ended since the last call."""
        return self._counts.take_latencies()

    def state(self) -> ReplicaState:
        """For routers: see `deployments.request_router`."""
        admission = self._admission
        self._num_states += 1
        return ReplicaState(
            number=float(self._num_states),
            outstanding_work=round(admission.outstanding_work, 1),
            token_s=admission.token_time.tpot_s(admission.limits.seats / 4),
        )

    def demand_seats(self) -> float:
        """Seats that are wanted of this replica, by requests that it refused too."""
        admission = self._admission
        here = admission.running + admission.waiting
        return max(float(here), self._demand.seats(self._clock()))

    def capacity(self) -> SeatCapacity:
        """Seats with which promises hold: those of the classes that were here last."""
        default = next(iter(self._classes.values()))
        return self._admission.capacity(self._clock(), default, self.step_costs)

    def snapshot(self) -> dict[str, Any]:
        """For `GET /fleet`."""
        admission, now_s = self._admission, self._clock()
        token_s = admission.token_time.tpot_s(admission.running)
        return {
            "running": admission.running,
            "waiting": admission.waiting,
            "seats": admission.seats(now_s),
            "unread_tokens": round(admission.unread_tokens + admission.queued_prompt_tokens),
            "outstanding_work": round(admission.outstanding_work, 1),
            "drain_per_s": round(admission.drain_per_s(now_s) or 0.0, 1),
            "tpot_ms": round(1000 * token_s, 2) if token_s is not None else None,
            "classes": self._counts.snapshot(),
        }
