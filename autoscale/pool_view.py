"""What a router knows of its replicas: what it sent them itself, and what they report.

What it sent and has not ended it knows exactly, from the moment it chose where: a replica that
hangs takes nothing, and would look idle. Reports are a second old or so when they come, and may
stop coming: believed as they are, they are worse than nothing. So they only say what slowly
changes: how fast a replica is, and how much it has on average from other routers.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from autoscale.admission import Scope
from autoscale.demand import MEMORY_S
from autoscale.fair_queue import Flow
from autoscale.prefixes import PrefixMemory
from autoscale.routing import Candidate, relative_speeds
from autoscale.service_class import ServiceClass
from autoscale.turns import Turns

FRESH_S = 5.0
_FULL_S = 0.5  # after which a replica that refused may have room again
_NEW = 0.2  # weight of a new report in what others send
_SPREAD = (0.75, 1.25)  # of the time until a turn, that are told
_RETRY_S = (1.0, 60.0)  # that a client is told at least, and at most


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
    """In how many seconds to come back, and why not now.

    The request is `work_s` seconds of a replica's whole time, 0 where that is not known.
    """

    retry_after_s: float
    reason: str
    work_s: float = 0.0
    scope: Scope = "line"


class _Full(NamedTuple):
    until_s: float
    refused: Refused


_NOBODY_FITS = None  # in the place of a line, where everybody is refused


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
    full: dict[Flow | None, _Full] = field(default_factory=dict)  # by line, the last ones

    @property
    def is_silent(self) -> bool:
        """It was waited for in vain and has said nothing since."""
        return bool(self.given_up)

    def refusal(self, asker: Flow, now_s: float) -> Refused | None:
        """The one of a moment ago that would meet every request of a line; None without one."""
        known = (self.full.get(asker), self.full.get(_NOBODY_FITS))
        fresh = [full.refused for full in known if full is not None and full.until_s > now_s]
        return min(fresh, default=None)


class PoolView:
    """The replicas of one deployment, by id. Times are of a clock that the caller reads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._replicas: dict[str, _Replica] = {}
        self._turns = Turns()
        self._random = rng or random.Random()
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

    def refused(self, replica: str, asker: Flow, refused: Refused, now_s: float) -> None:
        """It had no room for a request of a line. What it refuses ends at once: it would look
        idle."""
        one = self._replicas.get(replica)
        if one is not None and refused.scope != "request":
            line = asker if refused.scope == "line" else _NOBODY_FITS
            one.full[line] = _Full(now_s + _FULL_S, refused)

    def is_heard(self, now_s: float) -> bool:
        """Some replica has reported lately, whether or not it takes requests."""
        return any(self._fresh(one, now_s) for one in list(self._replicas.values()))

    def num_open(self, asker: Flow, now_s: float) -> int:
        """Replicas that may have room for a request of a line; silent ones have none."""
        return sum(one.refusal(asker, now_s) is None for one in self._answering())

    def refused_by_all(self, asker: Flow, now_s: float) -> Refused | None:
        """The soonest to come back to where every replica has refused the line lately, None
        where one may have room. Silent ones have no say. Without replicas there is room:
        requests wait for one."""
        refusals = [one.refusal(asker, now_s) for one in self._answering()]
        known = [refused for refused in refusals if refused is not None]
        return min(known) if known and len(known) == len(refusals) else None

    def _answering(self) -> list[_Replica]:
        return [one for one in list(self._replicas.values()) if not one.is_silent]

    def turn_away(
        self,
        asker: Flow,
        promised: ServiceClass,
        refused: Refused,
        now_s: float,
        num_turns: float = 1.0,
    ) -> Refused:
        """What a client is told, for good, of the refusal of a request: to come back when the
        queue is short and those who were refused before are served.

        It counts as `num_turns`: less than one where other pools take their share of it, more
        where others turn away as many who know nothing of these.
        """
        work_s = num_turns * refused.work_s / max(len(self._answering()), 1)
        turn_s = self._turns.give(asker, promised, work_s, now_s) * self._random.uniform(*_SPREAD)
        least_s, most_s = _RETRY_S
        retry_after_s = min(max(refused.retry_after_s + turn_s, least_s), most_s)
        return refused._replace(retry_after_s=retry_after_s)

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
        asker: Flow,
        prefix: list[bytes],
        work_per_char: float,
        now_s: float,
        refused_by: str = "",
    ) -> list[Candidate]:
        """In the order of `replicas`, which have to be among those kept. One of them may have
        refused this very request."""
        ids = list(replicas)
        states = [self._fresh(self._replicas[id_], now_s) for id_ in ids]
        speeds = relative_speeds([state.token_s if state else None for state in states])
        return [
            Candidate(
                self.outstanding_work(id_, now_s),
                speed,
                work_per_char * self._replicas[id_].prefixes.known_chars(prefix),
                is_full=id_ == refused_by or self._replicas[id_].refusal(asker, now_s) is not None,
            )
            for id_, speed in zip(ids, speeds, strict=True)
        ]

    @staticmethod
    def _fresh(one: _Replica, now_s: float) -> ReplicaState | None:
        return one.state if one.state is not None and now_s - one.state_at_s <= FRESH_S else None
