"""Five times the capacity for ten seconds, on a modelled engine: the gate against first come,
first served to all seats."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from autoscale.admission import Admission, ReplicaLimits, Ticket
from autoscale.request_cost import RequestCost
from autoscale.service_class import ServiceClass

SEATS, PROMPT, OUTPUT = 32, 20, 64
PROMISED = ServiceClass("promised", ttft_s=2.0, tpot_s=0.035)  # 25 requests at once keep it
CAPACITY_PER_S = SEATS / OUTPUT / 0.042  # all seats taken: 42 ms a step


def step_s(decoding: int, prompt_tokens: int) -> float:
    return 0.010 + 0.001 * decoding + 0.0001 * prompt_tokens


def burst(seed: int) -> list[float]:
    rng, times, now_s = random.Random(seed), [], 0.0
    while now_s < 30:
        rate = 5.0 if 5 <= now_s < 15 else 0.5
        now_s += rng.expovariate(rate * CAPACITY_PER_S)
        times.append(now_s)
    return times


@dataclass
class Run:
    """What became of a burst."""

    tickets: list[Ticket] = field(default_factory=list)
    ended_s: dict[int, float] = field(default_factory=dict)

    @property
    def kept(self) -> float:
        return sum(map(self._is_kept, self.tickets)) / len(self.tickets)

    @property
    def drained_s(self) -> float:
        return max(self.ended_s.values()) - self.tickets[-1].arrived_s

    @property
    def kept_of_served(self) -> float:
        return self.kept * len(self.tickets) / len(self.ended_s)

    def _is_kept(self, ticket: Ticket) -> bool:
        if id(ticket) not in self.ended_s or ticket.first_token_s is None:
            return False
        tpot_s = (self.ended_s[id(ticket)] - ticket.first_token_s) / (OUTPUT - 1)
        return PROMISED.is_met(ticket.first_token_s - ticket.arrived_s, tpot_s)


def serve(seed: int, *, gated: bool) -> Run:
    admission = Admission(ReplicaLimits(SEATS))
    arrivals = deque(burst(seed))
    run, waiting, seated = Run(), deque[Ticket](), list[Ticket]()
    now_s = 0.0
    while arrivals or waiting or seated:
        while arrivals and (arrivals[0] <= now_s or not (seated or waiting)):
            now_s = max(now_s, arrivals[0])
            ticket = Ticket(PROMISED, "t", RequestCost(PROMPT, OUTPUT), arrivals.popleft())
            run.tickets.append(ticket)
            if not gated:
                waiting.append(ticket)
            elif admission.offer(ticket, now_s) is None and ticket.seated_s is not None:
                seated.append(ticket)
        while not gated and waiting and len(seated) < SEATS:
            waiting[0].seated_s = now_s
            seated.append(waiting.popleft())
        decoding = [one for one in seated if one.first_token_s is not None]
        reading = [one for one in seated if one.first_token_s is None]
        now_s += step_s(len(decoding), PROMPT * len(reading))
        for one in seated:
            _token(admission, one, now_s, gated=gated)
        for one in [one for one in seated if one.output_tokens >= OUTPUT]:
            seated.remove(one)
            run.ended_s[id(one)] = now_s
            if gated:
                admission.leave(one, now_s)
        if gated:
            admission.observe(now_s)
            seated += admission.advance(now_s).seated
            waiting = deque(admission._queue)
    return run


def _token(admission: Admission, one: Ticket, now_s: float, *, gated: bool) -> None:
    if gated:
        admission.record_tokens(one, 1, now_s)
        return
    one.first_token_s = now_s if one.first_token_s is None else one.first_token_s
    one.output_tokens += 1


def test_a_burst_leaves_the_promises_that_can_be_kept():
    for seed in range(3):
        plain, gated = serve(seed, gated=False), serve(seed, gated=True)
        assert gated.kept >= plain.kept + 0.2
        assert gated.kept_of_served >= 0.9
        assert gated.drained_s <= plain.drained_s
