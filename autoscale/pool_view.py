"""What a router knows of its replicas: what it sent them itself, and what they report.

What it sent and has not ended it knows exactly, from the moment it chose where: a replica that
hangs takes nothing, and would look idle. Reports are a second old or so when they come, and may
stop coming: believed as they are, they are worse than nothing. So they only say what slowly
changes: how fast a replica is, and how much it has on average from other routers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from autoscale.demand import MEMORY_S
from autoscale.prefixes import PrefixMemory
from autoscale.routing import Candidate, relative_speeds

FRESH_S = 5.0
_FULL_S = 0.5  # after which a replica that refused may have room again
_NEW = 0.2  # weight of a new report in what others send


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """What a replica reports: numbered, as the same report may come many times.

    `token_s` are seconds per token of a request at a load that is the same for all replicas,
    None where it does not know.
    """

    number: float
    outstanding_work: float
    token_s: float | None = None


class Refused(NamedTuple):
    """In how many seconds to come back, and why not now."""

    retry_after_s: float
    reason: str


@dataclass(slots=True)
class _Replica:
    sent: dict[str, list[float]] = field(default_factory=dict)  # works by request
    sent_work: float = 0.0
    untaken: set[str] = field(default_factory=set)  # sent, and not said to be taken
    given_up: set[str] = field(default_factory=set)  # of those, no longer waited for
    others_work: float = 0.0
    prefixes: PrefixMemory = field(default_factory=PrefixMemory)
    state: ReplicaState | None = None
    state_at_s: float = 0.0
    full_until_s: dict[str, float] = field(default_factory=dict)  # by class
    refusals: dict[str, Refused] = field(default_factory=dict)  # by class, the last ones

    @property
    def is_silent(self) -> bool:
        """It was waited for in vain and has said nothing since."""
        return bool(self.given_up)

    def is_full(self, class_name: str, now_s: float) -> bool:
        return self.full_until_s.get(class_name, now_s) > now_s


class PoolView:
    """The replicas of one deployment, by id. Times are of a clock that the caller reads."""

    def __init__(self) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._num_unseen = self._unseen_s = 0.0
        self.num_waiting = 0  # requests, for any replica at all

    @property
    def is_empty(self) -> bool:
        """No replica lives."""
        return not self._replicas

    def __contains__(self, replica: object) -> bool:
        return replica in self._replicas

    def keep(self, replicas: Iterable[str]) -> None:
        """These are there now; the others are forgotten."""
        self._replicas = {id_: self._replicas.get(id_) or _Replica() for id_ in replicas}

    def report(self, replica: str, state: ReplicaState, now_s: float) -> None:
        one = self._replicas.get(replica)
        if one is None or (one.state is not None and one.state.number == state.number):
            return
        others_work = max(state.outstanding_work - one.sent_work, 0.0)
        if self._fresh(one, now_s) is None:
            one.others_work = others_work
        one.others_work += _NEW * (others_work - one.others_work)
        one.state, one.state_at_s = state, now_s

    def sent(self, replica: str, request_id: str, work: float) -> None:
        """It was chosen for a request, which ends once for every time that it was sent."""
        one = self._replicas.get(replica)
        if one is not None:
            one.sent.setdefault(request_id, []).append(work)
            one.sent_work += work
            one.untaken.add(request_id)

    def taken(self, replica: str, request_id: str, prefix: list[bytes]) -> None:
        """It says that it takes a request, which may have ended before this is heard."""
        one = self._replicas.get(replica)
        if one is not None:
            one.untaken.discard(request_id)
            one.given_up.clear()
            one.prefixes.remember(prefix)

    def ended(self, replica: str, request_id: str) -> None:
        """However it did: answered, turned away at the door, cancelled or lost."""
        one = self._replicas.get(replica)
        if one is None or request_id not in one.sent:
            return
        one.sent_work -= one.sent[request_id].pop()
        if not one.sent[request_id]:
            del one.sent[request_id]
            one.untaken.discard(request_id)
            one.given_up.discard(request_id)

    def gave_up(self, request_id: str) -> None:
        """A request is no longer waited for by its caller: who has it and did not say so is
        silent, until it is heard of."""
        for one in list(self._replicas.values()):
            if request_id in one.untaken:
                one.given_up.add(request_id)

    def answering(self, replicas: Iterable[str]) -> list[str]:
        """Those that are not silent; all where all are. They have to be among those kept."""
        ids = list(replicas)
        return [id_ for id_ in ids if not self._replicas[id_].is_silent] or ids

    def refused(
        self,
        replica: str,
        class_name: str,
        retry_after_s: float,
        now_s: float,
        reason: str,
    ) -> None:
        """It had no room for a request of a class. What it refuses ends at once: it would look
        idle."""
        one = self._replicas.get(replica)
        if one is not None:
            one.refusals[class_name] = Refused(retry_after_s, reason)
            one.full_until_s[class_name] = now_s + _FULL_S

    def refused_by_all(self, class_name: str, now_s: float) -> Refused | None:
        """The soonest to come back to where every replica has refused the class lately, None
        where one may have room. Silent ones have no say. Without replicas there is room:
        requests wait for one."""
        replicas = [one for one in list(self._replicas.values()) if not one.is_silent]
        if not replicas or not all(one.is_full(class_name, now_s) for one in replicas):
            return None
        return min(one.refusals[class_name] for one in replicas)

    def refused_unseen(self, now_s: float, share: float = 1.0) -> None:
        """A request, or this pool's share of one, was refused without asking a replica."""
        self._fade_unseen(now_s)
        self._num_unseen += share

    def take_unseen(self, now_s: float) -> int:
        """Requests of late that no replica has heard of: the next one that goes to a replica
        tells it, as they are demand."""
        self._fade_unseen(now_s)
        whole = int(self._num_unseen)
        self._num_unseen -= whole
        return whole

    def _fade_unseen(self, now_s: float) -> None:
        """What was refused long ago says nothing of demand now."""
        self._num_unseen *= math.exp(-max(now_s - self._unseen_s, 0.0) / MEMORY_S)
        self._unseen_s = now_s

    def outstanding_work(self, replica: str, now_s: float) -> float:
        one = self._replicas[replica]
        others_work = one.others_work if self._fresh(one, now_s) else 0.0
        return max(one.sent_work, 0.0) + others_work

    def candidates(
        self,
        replicas: Iterable[str],
        class_name: str,
        prefix: list[bytes],
        work_per_char: float,
        now_s: float,
    ) -> list[Candidate]:
        """In the order of `replicas`, which have to be among those kept."""
        ids = list(replicas)
        states = [self._fresh(self._replicas[id_], now_s) for id_ in ids]
        speeds = relative_speeds([state.token_s if state else None for state in states])
        return [
            Candidate(
                self.outstanding_work(id_, now_s),
                speed,
                work_per_char * self._replicas[id_].prefixes.known_chars(prefix),
                is_full=self._replicas[id_].is_full(class_name, now_s),
            )
            for id_, speed in zip(ids, speeds, strict=True)
        ]

    @staticmethod
    def _fresh(one: _Replica, now_s: float) -> ReplicaState | None:
        return one.state if one.state is not None and now_s - one.state_at_s <= FRESH_S else None
