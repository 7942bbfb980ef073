"""A queue in which nobody's backlog is another's wait.

Higher priorities go first. Classes of one priority share by weight, tenants of one class
equally, each by start-time fair queueing (Goyal, Vin and Cheng, 1996): whoever is served is
charged its cost in virtual time, and the one charged least is next. Within a tenant and class
it is first come, first served.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping
from operator import itemgetter
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
        self._tenants: defaultdict[str, FairClock] = defaultdict(FairClock)  # by class

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
        self._tenants[one.name].charge(item.tenant, item.work, 1.0)

    def remove(self, item: T) -> None:
        """Take out an item that is not served. Raises ValueError when it is not there."""
        flow = _flow(item)
        line = self._lines.get(flow)
        if line is None:
            raise ValueError(f"{item} is not queued")
        line.remove(item)
        if not line:
            del self._lines[flow]

    def last_in_line(self) -> T:
        """Who goes where too many wait: the last one of the longest line, among those of the lowest
        priority. Of lines as long as each other it is the youngest. What continues stays; where
        nothing else waits, ValueError is raised.
        """
        lines = [line for line in self._lines.values() if not line[-1].continues]
        return max(reversed(lines), key=_dispensable)[-1]

    def work_ahead(self, item: T) -> float:
        """Work that will be served before a newcomer `item`, if nobody comes after it.

        Its own is no matter: turns go by what was charged before. All that continues is served
        before, all of higher priority and all of its own line; of other lines of its priority
        what starts earlier in virtual time.
        """
        one, clock = item.service_class, self._classes[item.service_class.priority]
        first = sum(i.work for i in self if i.continues or i.service_class.priority > one.priority)
        own_line = sum(i.work for i in self._lines.get(_flow(item), ()))
        turn = self._tenants[one.name].start(item.tenant) + own_line
        ahead = sum(work for start, work in self._in_turn(one.name) if start <= turn)
        class_turn = clock.start(one.name) + ahead / one.weight
        for other in {i.service_class.name: i.service_class for i in self}.values():
            if other.name == one.name or other.priority != one.priority:
                continue
            start = clock.start(other.name)
            for within, work in self._in_turn(other.name):
                if (start, within) > (class_turn, turn):
                    break
                ahead += work
                start += work / other.weight
        return first + ahead

    def _in_turn(self, class_name: str) -> list[tuple[float, float]]:
        """Virtual start and work of whatever waits in a class and continues nothing, in the order
        in which the class serves it."""
        found, tenants = [], self._tenants[class_name]
        for flow, line in self._lines.items():
            if flow.class_name == class_name:
                start = tenants.start(flow.tenant)
                for item in line:
                    if not item.continues:
                        found.append((start, item.work))
                    start += item.work
        return sorted(found, key=itemgetter(0))

    def _turn(self, item: T) -> tuple[bool, int, float, float]:
        one = item.service_class
        return (
            not item.continues,
            -one.priority,
            self._classes[one.priority].start(one.name),
            self._tenants[one.name].start(item.tenant),
        )


def _flow(item: Queued) -> Flow:
    return Flow(item.service_class.name, item.tenant)


def _dispensable(line: deque[T]) -> tuple[int, int]:
    return -line[-1].service_class.priority, len(line)


def line_weights(lines: Mapping[Flow, ServiceClass]) -> dict[Flow, float]:
    """A class's weight, shared by its tenants."""
    tenants: dict[str, int] = {}
    for flow in lines:
        tenants[flow.class_name] = tenants.get(flow.class_name, 0) + 1
    return {flow: one.weight / tenants[flow.class_name] for flow, one in lines.items()}
