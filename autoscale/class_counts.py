"""What became of the requests of each class, on one replica."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from autoscale.admission import Reason, Ticket
from autoscale.fleet_load import OUTCOME_FADE, ClassOutcomes
from autoscale.service_class import ServiceClass

_MOST_LATENCIES = 4096  # kept until they are taken


class Latency(NamedTuple):
    """Of a request that ended whole, where it began; `tpot_s` is None where it had one token or
    none."""

    class_name: str
    ttft_s: float
    tpot_s: float | None


@dataclass(slots=True)
class ClassTotals:
    """Since the replica started. `arrived` + `continued` = `admitted` + `shed_...` + `gave_up`;
    `admitted` = `met` + `missed` + `broken_off` + those running.

    A request arrives when it is known what becomes of it here: of targets that are asked in turn
    it arrives at the last one. Streams `continued` from a lost target arrived there. A request was
    `broken_off` when its client left or it failed: that says nothing of the promise.
    """

    arrived: int = 0
    continued: int = 0
    admitted: int = 0
    shed_queue_full: int = 0
    shed_too_late: int = 0
    gave_up: int = 0
    met: int = 0
    missed: int = 0
    broken_off: int = 0


class ClassCounts:
    """Counts per class, all there from the beginning; refusals count as promises not kept."""

    def __init__(self, classes: Iterable[ServiceClass]) -> None:
        self._totals = {one.name: ClassTotals() for one in classes}
        self._recent = {name: [0.0, 0.0] for name in self._totals}
        self._latencies: deque[Latency] = deque(maxlen=_MOST_LATENCIES)

    def admitted(self, ticket: Ticket) -> None:
        self._came(ticket).admitted += 1

    def shed(self, ticket: Ticket, reason: Reason) -> None:
        totals = self._came(ticket)
        if reason == "queue_full":
            totals.shed_queue_full += 1
        else:
            totals.shed_too_late += 1
        self._recent[ticket.service_class.name][0] += 1

    def gave_up(self, ticket: Ticket) -> None:
        """Its client left before it was seated."""
        self._came(ticket).gave_up += 1

    def _came(self, ticket: Ticket) -> ClassTotals:
        totals = self._totals[ticket.service_class.name]
        if ticket.continues:
            totals.continued += 1
        else:
            totals.arrived += 1
        return totals

    def ended(self, ticket: Ticket, now_s: float, *, is_whole: bool) -> None:
        """An admitted request ended; `is_whole` where nobody broke it off.

        Of a stream that continues the time per token is judged alone: its first one was elsewhere.
        """
        name, promised = ticket.service_class.name, ticket.service_class
        totals = self._totals[name]
        if not is_whole:
            totals.broken_off += 1
            return
        per_sequence = ticket.output_tokens / ticket.cost.num_sequences
        if ticket.first_token_s is None:
            is_met = ticket.continues or now_s - ticket.arrived_s <= _allowed_s(
                promised, per_sequence
            )
        else:
            ttft_s = ticket.first_token_s - ticket.arrived_s
            tpot_s = (now_s - ticket.first_token_s) / max(per_sequence - 1, 1)
            is_met = promised.is_met(0.0 if ticket.continues else ttft_s, tpot_s)
            if not ticket.continues:
                self._latencies.append(Latency(name, ttft_s, tpot_s if per_sequence > 1 else None))
        totals.met += is_met
        totals.missed += not is_met
        self._recent[name][0] += 1
        self._recent[name][1] += is_met

    def take_outcomes(self) -> dict[str, ClassOutcomes]:
        """Recent outcomes per class, for the fleet; older ones fade each time."""
        outcomes = {name: ClassOutcomes(*counts) for name, counts in self._recent.items()}
        for counts in self._recent.values():
            counts[:] = [OUTCOME_FADE * count for count in counts]
        return outcomes

    def take_latencies(self) -> list[Latency]:
        """Of requests that ended since the last call, the latest of them if they were many."""
        taken = list(self._latencies)
        self._latencies.clear()
        return taken

    def snapshot(self) -> dict[str, dict[str, Any]]:
        return {name: asdict(totals) for name, totals in self._totals.items()}


def _allowed_s(one: ServiceClass, num_tokens: float) -> float:
    """What a promise leaves for an answer that comes in one piece, with tokens or without."""
    return one.ttft_s + ((num_tokens - 1) * one.tpot_s if num_tokens > 1 else 0.0)
