"""Who gets a seat on a replica, who waits for one, and who is told to come back later.

A request that would get its first token too late is refused at once, or as soon as that is
seen: served late it would help nobody and make the next one late. Decisions alone, on a clock
that the caller reads; `deployments.replica_gate` carries them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from autoscale.drain_rate import DrainRate
from autoscale.fair_queue import FairQueue
from autoscale.fleet_step_cost import StepCostReport
from autoscale.request_cost import PREFILL_WORK, RequestCost
from autoscale.seat_capacity import ProfiledTokenTime, SeatCapacity, seat_capacity
from autoscale.seat_limit import TokenTime
from autoscale.service_class import ServiceClass

Reason = Literal["queue_full", "too_late"]
Scope = Literal["request", "line", "everybody"]  # whom a refusal would meet as well, lately
_NEW = 0.1  # weight of one more request in the time from seat to first token
_START_MARGIN = 1.2
_OUTLIER = 2.0  # times the usual time, beyond which a start counts no more
_LEAST_START_S = 0.1
_REMEMBERED_S = 30.0  # for which a class that was here is expected again
_SMALLEST = RequestCost(prompt_tokens=0.0, output_tokens=0.0)


@dataclass(frozen=True, slots=True)
class ReplicaLimits:
    """What a replica has: sequences in a step, KV cache, and room to wait.

    `unread_tokens` of prompts may be seated before their turn to be read comes: beyond them a
    request waits as well outside, where it can still be refused in time.
    """

    seats: int
    kv_tokens: float = math.inf
    unread_tokens: float = math.inf
    queued_requests: int = 256


class Refusal(NamedTuple):
    """Why not now; in `retry_after_s` the queue is short enough, if nobody else comes.

    The request is `work_s` seconds of this replica's whole time, 0 while that is not known. Where
    `scope` is its line, every request of its class and tenant would be refused, however small.
    """

    reason: Reason
    retry_after_s: float
    work_s: float
    scope: Scope


@dataclass(slots=True, eq=False)
class Ticket:
    """A request on its way: waiting, then seated, then reading its prompt, then decoding.

    One that `continues` a lost target's stream had its seat already: it is never refused, and
    goes ahead of all newcomers. One that is refused `goes_elsewhere`, where another replica is
    still to be asked.
    """

    service_class: ServiceClass
    tenant: str
    cost: RequestCost
    arrived_s: float
    continues: bool = False
    goes_elsewhere: bool = False
    seated_s: float | None = None
    first_token_s: float | None = None
    output_tokens: int = 0

    @property
    def work(self) -> float:
        return self.cost.work


@dataclass(slots=True)
class Changes:
    """Who was seated and who was refused since the last look."""

    seated: list[Ticket] = field(default_factory=list)
    refused: list[tuple[Ticket, Refusal]] = field(default_factory=list)


class Admission:
    """The seats of one replica and the queue before them.

    `offer` a ticket: it is seated, queued or refused. `advance` whenever one has left, and at
    `next_deadline_s`, to see who is next.
    """

    def __init__(self, limits: ReplicaLimits) -> None:
        self.limits = limits
        self.token_time = TokenTime()
        self._queue: FairQueue[Ticket] = FairQueue()
        self._seated: set[Ticket] = set()
        self._dropped: list[tuple[Ticket, Refusal]] = []  # by newcomers, since `advance`
        self._drain = DrainRate()
        self._start_s = 0.0  # usual time from seat to first token
        self._done_work = 0.0  # since the drain rate was last told
        self._observed_s: float | None = None
        self._tokens = 0.0
        self._decoding_s = 0.0  # of all decoding requests together, since `observe`
        self._decoding_since_s = 0.0
        self._seen: dict[ServiceClass, float] = {}  # classes, and when they were here last

    @property
    def running(self) -> int:
        """Sequences that are seated."""
        return self._taken(self._seated)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def unread_tokens(self) -> float:
        """Prompt tokens of seated requests without a first token."""
        return sum(t.cost.prompt_tokens for t in self._seated if t.first_token_s is None)

    @property
    def queued_prompt_tokens(self) -> float:
        return sum(t.cost.prompt_tokens for t in self._queue)

    @property
    def outstanding_work(self) -> float:
        """Seated or queued, of which what was said already is done."""
        seated = sum(max(t.work - _done(t), 0.0) for t in self._seated)
        return seated + sum(t.work for t in self._queue)

    def seats(self, now_s: float) -> int:
        """Sequences that may run together for every class that was here lately to get its
        tokens in time, as was seen."""
        self._see(now_s)
        seats = self.token_time.seats(self._tightest_s(now_s), self.limits.seats)
        return max(1, min(seats, self.limits.seats))

    def capacity(
        self, now_s: float, newcomer: ServiceClass, steps: StepCostReport | None
    ) -> SeatCapacity:
        """Seats with which tokens come in time for all classes that were here last, however long
        ago, and for `newcomer` where nobody was.

        Not only as many as a burst is let in to: those that are known to keep the promise.
        """
        self._see(now_s)
        last_s = max(self._seen.values(), default=now_s)
        tpot_s = self._tightest_s(last_s) if self._seen else newcomer.tpot_s
        contexts = [t.cost.prompt_tokens + t.cost.output_tokens / 2 for t in self._seated]
        context_tokens = math.fsum(contexts) / len(contexts) if contexts else 0.0
        profile = ProfiledTokenTime(steps, context_tokens) if steps is not None else None
        return seat_capacity(self.token_time, profile, tpot_s, self.limits.seats)

    def _see(self, now_s: float) -> None:
        self._seen.update((t.service_class, now_s) for t in (*self._seated, *self._queue))

    def _tightest_s(self, now_s: float) -> float:
        """Time per token that was promised to any who were here lately."""
        recent = (one for one, at_s in self._seen.items() if now_s - at_s <= _REMEMBERED_S)
        return min((one.tpot_s for one in recent), default=math.inf)

    def offer(self, ticket: Ticket, now_s: float) -> Refusal | None:
        """Seat a ticket, queue it, or refuse it at once.

        Where there is room nobody is refused, whatever is expected of the replica: how else
        would it be found out that it has recovered? A newcomer finds a full queue only where its
        own line is the longest of the lowest priority: else the last one of that goes.
        """
        self._seen[ticket.service_class] = now_s
        wait_s = self.wait_s(ticket, now_s)
        self._queue.push(ticket)
        if self._next(now_s) is ticket:
            self._seat(ticket, now_s)
            return None
        if ticket.continues:
            return None
        if wait_s >= self._deadline_s(ticket) - now_s:
            self._queue.remove(ticket)
            return self._refusal(ticket, "too_late", now_s)
        if len(self._queue) > self.limits.queued_requests:
            last = self._queue.last_in_line()
            self._queue.remove(last)
            refusal = self._refusal(last, "queue_full", now_s)
            if last is ticket:
                return refusal
            self._dropped.append((last, refusal))
        return None

    def advance(self, now_s: float) -> Changes:
        """Refuse those whose time is up, seat those whose turn it is."""
        changes = Changes(refused=self._dropped)
        self._dropped = []
        late = [t for t in self._queue if now_s > self._deadline_s(t)]
        for one in late:
            self._queue.remove(one)
        changes.refused += [(t, self._refusal(t, "too_late", now_s)) for t in late]
        while (ticket := self._next(now_s)) is not None:
            self._seat(ticket, now_s)
            changes.seated.append(ticket)
        return changes

    def next_deadline_s(self) -> float:
        """When the next waiting request's time is up; infinite where none waits."""
        return min((self._deadline_s(t) for t in self._queue), default=math.inf)

    def record_tokens(self, ticket: Ticket, num_tokens: int, now_s: float) -> None:
        """Tokens of a seated request came, the first ones with its prompt read."""
        if ticket.first_token_s is None:
            assert ticket.seated_s is not None
            self._count_decoding(now_s)
            ticket.first_token_s = now_s
            start_s = min(now_s - ticket.seated_s, _OUTLIER * self._start_s + _LEAST_START_S)
            self._start_s += _NEW * (start_s - self._start_s)
            self._done_work += PREFILL_WORK * ticket.cost.prompt_tokens
        else:
            self._tokens += num_tokens
        ticket.output_tokens += num_tokens
        self._done_work += num_tokens

    def record_whole(self, ticket: Ticket, num_tokens: int) -> None:
        """A seated request's tokens came all at once: when its prompt was read is not known."""
        self._done_work += PREFILL_WORK * ticket.cost.prompt_tokens + num_tokens
        ticket.output_tokens += num_tokens

    def leave(self, ticket: Ticket, now_s: float) -> None:
        """A ticket ended, failed or gave up, wherever it was."""
        if ticket in self._seated:
            self._count_decoding(now_s)
            self._seated.remove(ticket)
        elif any(ticket is one for one in self._queue):
            self._queue.remove(ticket)
        self._tell_drain(now_s)

    def observe(self, now_s: float) -> None:
        """Take stock of how fast tokens came since the last call."""
        self._count_decoding(now_s)
        if self._observed_s is not None:
            self.token_time.record(
                now_s - self._observed_s, seat_s=self._decoding_s, tokens=self._tokens
            )
        self._observed_s = now_s
        self._decoding_s = self._tokens = 0.0

    def drain_per_s(self, now_s: float) -> float | None:
        """Work per second with every seat taken; None while nothing is known."""
        self._tell_drain(now_s)
        return self._drain.per_s(self.seats(now_s), now_s)

    def wait_s(self, ticket: Ticket, now_s: float) -> float:
        """How long a newcomer of a ticket's class and tenant is expected to wait behind others,
        whatever its size; 0 while nothing is known."""
        if not self._queue:
            return 0.0
        drain_per_s = self.drain_per_s(now_s)
        return self._queue.work_ahead(ticket) / drain_per_s if drain_per_s is not None else 0.0

    def allowed_wait_s(self, service_class: ServiceClass) -> float:
        """How long a request may wait for a seat before its promise is past keeping."""
        start_s = service_class.ttft_s - _START_MARGIN * self._start_s
        return max(0.0, min(service_class.longest_wait_s, start_s))

    def _refusal(self, ticket: Ticket, reason: Reason, now_s: float) -> Refusal:
        """Of a ticket that is not queued any more."""
        drain_per_s = self.drain_per_s(now_s)
        work_s = ticket.work / drain_per_s if drain_per_s is not None else 0.0
        over_s = self.wait_s(ticket, now_s) - self.allowed_wait_s(ticket.service_class)
        is_line = (reason == "queue_full" or over_s >= 0) and not self._has_room(ticket, now_s)
        return Refusal(reason, max(over_s, 0.0), work_s, "line" if is_line else "request")

    def _has_room(self, ticket: Ticket, now_s: float) -> bool:
        """Whether the smallest request of a ticket's class and tenant would be seated now."""
        smallest = Ticket(ticket.service_class, ticket.tenant, _SMALLEST, now_s)
        self._queue.push(smallest)
        is_next = self._next(now_s) is smallest
        self._queue.remove(smallest)
        return is_next

    def _seat(self, ticket: Ticket, now_s: float) -> None:
        self._queue.take(ticket)
        ticket.seated_s = now_s
        self._seated.add(ticket)
        self._tell_drain(now_s)

    def _deadline_s(self, ticket: Ticket) -> float:
        if ticket.continues:
            return math.inf
        return ticket.arrived_s + self.allowed_wait_s(ticket.service_class)

    def _next(self, now_s: float) -> Ticket | None:
        """Who is to be seated; None where nobody can be.

        Where a class has all the seats it may have, the next class goes before it. Where the
        replica is full nobody does: a large request would wait for ever.
        """
        for ticket in self._queue.heads():
            if not self._class_is_full(ticket):
                return ticket if self._can_sit(ticket, now_s) else None
        return None

    def _class_is_full(self, ticket: Ticket) -> bool:
        one = ticket.service_class
        if one.max_seat_share >= 1:
            return False
        taken = self._taken(t for t in self._seated if t.service_class.name == one.name)
        most = max(1, int(one.max_seat_share * self.limits.seats))
        return taken > 0 and taken + ticket.cost.num_sequences > most

    def _can_sit(self, ticket: Ticket, now_s: float) -> bool:
        """Whether there is room. In an empty replica there is for everyone.

        The seats that a promise leaves are counted against requests of the same or higher
        priority: those below give way as they end.
        """
        if not self._seated:
            return True
        cost, limits = ticket.cost, self.limits
        peers = self._taken(
            t for t in self._seated if t.service_class.priority >= ticket.service_class.priority
        )
        unread_tokens = self.unread_tokens
        return (
            self.running + cost.num_sequences <= limits.seats
            and peers + cost.num_sequences <= max(self.seats(now_s), cost.num_sequences)
            and sum(t.cost.kv_tokens for t in self._seated) + cost.kv_tokens <= limits.kv_tokens
            and (not unread_tokens or unread_tokens + cost.prompt_tokens <= limits.unread_tokens)
        )

    @staticmethod
    def _taken(tickets: Iterable[Ticket]) -> int:
        return sum(ticket.cost.num_sequences for ticket in tickets)

    def _tell_drain(self, now_s: float) -> None:
        self._drain.record(now_s, running=self.running, work=self._done_work)
        self._done_work = 0.0

    def _count_decoding(self, now_s: float) -> None:
        decoding = self._taken(t for t in self._seated if t.first_token_s is not None)
        self._decoding_s += decoding * max(0.0, now_s - self._decoding_since_s)
        self._decoding_since_s = now_s


def _done(ticket: Ticket) -> float:
    read = PREFILL_WORK * ticket.cost.prompt_tokens if ticket.first_token_s is not None else 0.0
    return read + ticket.output_tokens
