"""A queue in which nobody's backlog is another's wait.

Higher priorities go first. Classes of one priority share by weight, tenants of one class
equally, each by start-time fair queueing (Goyal, Vin and Cheng, 1996): whoever is served is
charged its cost in virtual time, and the one charged least is next. Within a tenant and class
it is first come, first served.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator
from typing import Generic, NamedTuple, Protocol, TypeVar

from autoscale.service_class import ServiceClass


class Flow(NamedTuple):
    """Whose requests wait in one line."""

    class_name: str
    tenant: str


class Queued(Protocol):
    """What can be queued; `work` is what it is charged. What `continues` had its turn already:
    it goes before everything that does not."""

    @property
    def service_class(self) -> ServiceClass: ...
    @property
    def tenant(self) -> str: ...
    @property
    def work(self) -> float: ...
    @property
    def continues(self) -> bool: ...


class FairClock:
    """Virtual time of those who share something by weight."""

    def __init__(self) -> None:
        self._now = 0.0
        self._charged: dict[Hashable, float] = {}

    def start(self, who: Hashable) -> float:
        """The lowest is next. Whoever was away has no credit for it."""
        return max(self._now, self._charged.get(who, 0.0))

    def charge(self, who: Hashable, work: float, weight: float) -> None:
        self._now = self.start(who)
        self._charged[who] = self._now + work / weight


T = TypeVar("T", bound=Queued)


class FairQueue(Generic[T]):
    """Tenants and classes have to be few: what they were charged is kept."""

    def __init__(self) -> None:
        self._lines: dict[Flow, deque[T]] = {}
        # One of each priority: a higher one's time would pass for those below, too.
        self._classes: defaultdict[int, FairClock] = defaultdict(FairClock)
        self._tenants: dict[str, FairClock] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        for line in self._lines.values():
            yield from line

    def push(self, item: T) -> None:
        line = self._lines.setdefault(_flow(item), deque())
        if item.continues:
            line.insert(sum(one.continues for one in line), item)
        else:
            line.append(item)

    def heads(self) -> list[T]:
        """The first of every line, whose turn it is first."""
        return sorted((line[0] for line in self._lines.values()), key=self._turn)

    def take(self, item: T) -> None:
        """Take out an item that is served, and charge it."""
        self.remove(item)
        one = item.service_class
        self._classes[one.priority].charge(one.name, item.work, one.weight)
        self._tenants.setdefault(one.name, FairClock()).charge(item.tenant, item.work, 1.0)

    def remove(self, item: T) -> None:
        """Take out an item that is not served. Raises ValueError when it is not there."""
        flow = _flow(item)
        line = self._lines.get(flow)
        if line is None:
            raise ValueError(f"{item} is not queued")
        line.remove(item)
        if not line:
            del self._lines[flow]

    def work_ahead(self, item: T) -> float:
        """Work that will be served before a newcomer `item`.

        All of higher priority, and all of its own line. Of every other line of its priority
        as much as that line's share brings while the own line is served.
        """
        own, priority = _flow(item), item.service_class.priority
        higher = sum(one.work for one in self if one.service_class.priority > priority)
        own_work = sum(one.work for one in self._lines.get(own, ())) + item.work
        lines = {own: item.service_class} | {
            flow: line[0].service_class
            for flow, line in self._lines.items()
            if line[0].service_class.priority == priority
        }
        weights = _weights(lines)
        others = sum(
            min(
                sum(one.work for one in self._lines[flow]),
                own_work * weights[flow] / weights[own],
            )
            for flow in lines
            if flow != own
        )
        return higher + own_work - item.work + others

    def _turn(self, item: T) -> tuple[bool, int, float, float]:
        one = item.service_class
        tenants = self._tenants.get(one.name)
        return (
            not item.continues,
            -one.priority,
            self._classes[one.priority].start(one.name),
            tenants.start(item.tenant) if tenants else 0.0,
        )


def _flow(item: Queued) -> Flow:
    return Flow(item.service_class.name, item.tenant)


def _weights(lines: dict[Flow, ServiceClass]) -> dict[Flow, float]:
    """A class's weight, shared by its tenants."""
    tenants: dict[str, int] = {}
    for flow in lines:
        tenants[flow.class_name] = tenants.get(flow.class_name, 0) + 1
    return {flow: one.weight / tenants[flow.class_name] for flow, one in lines.items()}
