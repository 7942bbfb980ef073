"""What a target replica's frontend sees of its traffic: arrivals, tokens, promises kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from autoscale.fleet_load import OUTCOME_FADE, ClassOutcomes
from autoscale.service_class import ServiceClass


@dataclass(slots=True, eq=False)
class InFlight:
    """A request that has arrived and not ended; times in seconds of the meter's clock."""

    service_class: str
    prompt_tokens: int
    arrived_s: float
    first_token_s: float | None = None
    last_token_s: float = 0.0
    output_tokens: int = 0


class Traffic(NamedTuple):
    """Since the last one taken, `elapsed_s` ago: rates per second, output tokens where they
    became known; and as it is now: requests in flight and what their prompts have on average."""

    elapsed_s: float
    arrivals_per_s: float
    prompt_tokens_per_s: float
    tokens_per_s: float
    in_flight: int
    mean_prompt_tokens: float
    outcomes: Mapping[str, ClassOutcomes]


class TrafficMeter:
    """Counts for one replica, on one event loop.

    A request of a class that nobody promised anything counts as traffic alone.
    """

    def __init__(
        self, classes: Sequence[ServiceClass] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._classes = {one.name: one for one in classes}
        self._clock = clock
        self._in_flight: set[InFlight] = set()
        self._outcomes = {one.name: [0.0, 0.0] for one in classes}
        self._taken_s = clock()
        self._arrived = self._prompt_tokens = self._tokens = 0

    def arrive(self, service_class: str, prompt_tokens: int) -> InFlight:
        request = InFlight(service_class, prompt_tokens, self._clock())
        self._in_flight.add(request)
        self._arrived += 1
        self._prompt_tokens += prompt_tokens
        return request

    def produce(
        self, request: InFlight, num_tokens: int, first_token_after_s: float | None = None
    ) -> None:
        """`num_tokens` more of its output are there. The first came now, or where it is told
        later than it came, so long after the request did."""
        if not num_tokens:
            return
        request.last_token_s = self._clock()
        if request.first_token_s is None:
            request.first_token_s = request.last_token_s
            if first_token_after_s is not None:
                came_s = request.arrived_s + first_token_after_s
                request.first_token_s = min(request.first_token_s, came_s)
        request.output_tokens += num_tokens
        self._tokens += num_tokens

    def end(self, request: InFlight, *, is_complete: bool) -> None:
        """It leaves; one that was aborted says nothing of promises."""
        self._in_flight.discard(request)
        promised = self._classes.get(request.service_class)
        if promised is None or not is_complete or request.first_token_s is None:
            return
        decode_s = request.last_token_s - request.first_token_s
        tpot_s = decode_s / max(request.output_tokens - 1, 1)
        ttft_s = request.first_token_s - request.arrived_s
        self._count(request.service_class, is_met=promised.is_met(ttft_s, tpot_s))

    def refuse(self, service_class: str) -> None:
        """A request was turned away: its promise is not kept."""
        if service_class in self._outcomes:
            self._count(service_class, is_met=False)

    def take(self) -> Traffic:
        """What was counted; rates start again, outcomes fade."""
        now_s = self._clock()
        elapsed_s = max(now_s - self._taken_s, 1e-3)
        outcomes = {name: ClassOutcomes(*counts) for name, counts in self._outcomes.items()}
        prompts = [one.prompt_tokens for one in self._in_flight]
        traffic = Traffic(
            elapsed_s,
            self._arrived / elapsed_s,
            self._prompt_tokens / elapsed_s,
            self._tokens / elapsed_s,
            len(prompts),
            sum(prompts) / max(len(prompts), 1),
            outcomes,
        )
        self._taken_s = now_s
        self._arrived = self._prompt_tokens = self._tokens = 0
        for counts in self._outcomes.values():
            counts[:] = [OUTCOME_FADE * count for count in counts]
        return traffic

    def _count(self, service_class: str, *, is_met: bool) -> None:
        counts = self._outcomes[service_class]
        counts[0] += 1
        counts[1] += is_met
