"""One simulated target replica: an engine's seats and steps, scheduled by a real policy.

A step decodes one token of every running request and verifies its admitted draft tokens;
what room is left reads prompts, as chunked prefill does. After it the policy is asked as the
engine's adapter asks it, and drafting takes its time before the next step begins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoscale.fleet_load import OUTCOME_FADE, ClassOutcomes, ReplicaLoad
from autoscale.plan import NO_PLAN, ReplicaPlan
from autoscale.policies import Policy, StepOutcome, StepTerms
from autoscale.service_class import ServiceClass
from autoscale.simulation.confidences import CalibratedDrafts
from autoscale.simulation.draft_queue import Reply
from autoscale.simulation.served import DecodingRows, Served
from autoscale.simulation.texts import Texts
from autoscale.step_terms import request_weights, step_terms

_MEAN = 0.05  # weight of a new step in what it reports
_NONE = np.zeros(0, dtype=np.int64)
_EVERY = slice(None)

StepSeconds = Callable[[int, int, int], float]
"""Seconds of a step, by its tokens, decoding requests and their context tokens together."""
Draft = Callable[[float, int], Reply]
"""What becomes of asking for drafts for so many requests now."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """Of every replica: requests that decode together, and tokens of one step."""

    seats: int = 32
    max_step_tokens: int = 1024


@dataclass(slots=True)
class ReplicaTotals:
    """Since the beginning."""

    steps: int = 0
    committed_tokens: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    drafts: int = 0


@dataclass(slots=True)
class _Prefill:
    served: Served
    remaining: int


class _Step(NamedTuple):
    """One that has begun; `context_tokens` are all that its decoding requests had before."""

    n_tokens: int = 0
    context_tokens: int = 0
    step_s: float = 0.0
    prompt_tokens: int = 0


class _Drafts(NamedTuple):
    """What the next step verifies: of each of `rows` a draft of the texts' `places` [R], the
    first `lengths` [R] of its tokens, `num_tokens` together."""

    rows: NDArray[np.int64] | slice
    places: NDArray[np.int64]
    lengths: NDArray[np.int64]
    num_tokens: int


_NO_DRAFTS = _Drafts(_NONE, _NONE, _NONE, 0)


class SimulatedReplica:
    """Driven by `begin_step` and `end_step`, which say when the step ends and the next begins."""

    def __init__(
        self,
        policy: Policy,
        texts: Texts,
        classes: Sequence[ServiceClass],
        limits: EngineLimits,
        step_s: StepSeconds,
        draft: Draft,
        rng: np.random.Generator,
        *,
        confidences_err: bool = False,
        keeps_outcomes: bool = False,
    ) -> None:
        self.policy = policy
        self.plan: ReplicaPlan = NO_PLAN
        self.drafts = CalibratedDrafts(
            texts.gamma, rng, confidences_err=confidences_err, keeps_outcomes=keeps_outcomes
        )
        self.totals = ReplicaTotals()
        self.is_busy = False
        self.is_alive = True
        self.waiting: deque[Served] = deque()
        self._texts = texts
        self._classes = classes
        self._class_index = {one.name: i for i, one in enumerate(classes)}
        self._limits = limits
        self._step_s = step_s
        self._draft = draft
        self._rows = DecodingRows(limits.seats)
        self._prefills: deque[_Prefill] = deque()
        self._drafts = _NO_DRAFTS
        self._num_ids = 0
        self._step = _Step()
        self._finishing_prefills: list[Served] = []
        self._mean_step_s = 0.0
        self._mean_relative = 1.0
        self._mean_wait_s = 0.0
        self._arrived, self._arrived_tokens = 0, 0
        self._reported_tokens = self._reported_drafts = 0
        self._outcomes = {one.name: [0.0, 0.0] for one in classes}
        self._weights: NDArray[np.float64] | None = None  # of classes; None where all weigh 1

    @property
    def num_requests(self) -> int:
        """Those that run or wait here."""
        return len(self._rows.ids) + len(self._prefills) + len(self.waiting)

    def submit(self, served: Served) -> None:
        self.waiting.append(served)
        self._arrived += 1
        self._arrived_tokens += served.arrival.prompt_tokens

    def take_plan(self, plan: ReplicaPlan) -> None:
        self.plan = plan
        names = [one.name for one in self._classes]
        self._weights = request_weights(plan.class_weights, names)

    def lose_all(self) -> list[Served]:
        """The replica is gone: what it had goes on elsewhere, from what was produced."""
        self.is_alive = False
        for i, served in enumerate(self._rows.served):
            served.produced = int(self._rows.position[i])
        reading = [*self._finishing_prefills, *(p.served for p in self._prefills)]
        lost = [*self._rows.served, *reading, *self.waiting]
        self._rows = DecodingRows(self._limits.seats)
        self._prefills, self.waiting = deque(), deque()
        self._finishing_prefills.clear()
        return lost

    def begin_step(self, now_s: float) -> float | None:
        """When the step that begins now ends; None where there is nothing to do."""
        self._seat(now_s)
        num_rows = len(self._rows)
        if not num_rows and not self._prefills:
            self.is_busy = False
            return None
        self.is_busy = True
        decode_tokens = num_rows + self._drafts.num_tokens
        prompt_tokens = self._read_prompts(self._limits.max_step_tokens - decode_tokens)
        n_tokens = decode_tokens + prompt_tokens
        context = self._rows.context_tokens
        step_s = self._step_s(n_tokens, max(num_rows, 1), context)
        self._step = _Step(n_tokens, context, step_s, prompt_tokens)
        return now_s + step_s

    def end_step(self, now_s: float) -> float:
        """Commit what the step made, ask the policy; returns when the next step may begin."""
        rows = self._rows
        self.totals.steps += 1
        step_s = self._step.step_s
        if len(rows):
            self._commit(now_s)
        for served in self._finishing_prefills:
            self._start(served, now_s)
        self._finishing_prefills.clear()
        self._mean_step_s += _MEAN * (step_s - self._mean_step_s) if self._mean_step_s else step_s
        return self._ask(now_s) if len(rows) else self._nothing_drafted(now_s)

    def report(self, interval_s: float, profile_step_s: StepSeconds) -> ReplicaLoad:
        """What it tells the controller; what it counted starts again."""
        tokens = self.totals.committed_tokens - self._reported_tokens
        self._reported_tokens = self.totals.committed_tokens
        arrived, self._arrived = self._arrived, 0
        arrived_tokens, self._arrived_tokens = self._arrived_tokens, 0
        outcomes = {}
        for name, counts in self._outcomes.items():
            outcomes[name] = ClassOutcomes(*counts)
            counts[:] = [OUTCOME_FADE * counts[0], OUTCOME_FADE * counts[1]]
        n_tokens = self._step.n_tokens
        if n_tokens and len(self._rows):
            expected = profile_step_s(n_tokens, len(self._rows), self._rows.context_tokens)
            self._mean_relative += 0.2 * (self._step.step_s / expected - self._mean_relative)
        totals = self.totals
        drafts, self._reported_drafts = totals.drafts - self._reported_drafts, totals.drafts
        return ReplicaLoad(
            running=len(self._rows) + len(self._prefills),
            waiting=len(self.waiting),
            seats=self._limits.seats,
            prefill_tokens=sum(p.remaining for p in self._prefills)
            + sum(s.arrival.prompt_tokens for s in self.waiting),
            arrivals_per_s=arrived / interval_s,
            prompt_tokens_per_s=arrived_tokens / interval_s,
            tokens_per_s=tokens / interval_s,
            relative_step_cost=self._mean_relative,
            step_s=self._mean_step_s,
            num_drafts=totals.drafts,
            accepted_tokens=totals.accepted_tokens,
            draft_wait_s=self._mean_wait_s,
            outcomes=outcomes,
            drafts_per_s=drafts / interval_s,
        )

    def _seat(self, now_s: float) -> None:
        """Waiting requests take free seats; those whose promise is past keeping are refused."""
        while self.waiting and len(self._rows) + len(self._prefills) < self._limits.seats:
            served = self.waiting.popleft()
            arrival = served.arrival
            waits_s = now_s - arrival.arrival_s
            promised = self._classes[self._class_index[arrival.service_class]]
            if waits_s > promised.longest_wait_s and not served.produced:
                served.was_shed = True
                self._count_outcome(served, is_met=False)
                continue
            # After a loss what was produced is read again.
            self._prefills.append(_Prefill(served, arrival.prompt_tokens + served.produced))

    def _read_prompts(self, room: int) -> int:
        """Give the room in a step to prompts, first come, first served; returns the tokens."""
        read = 0
        while self._prefills and read < room:
            first = self._prefills[0]
            chunk = min(first.remaining, room - read)
            first.remaining -= chunk
            read += chunk
            if not first.remaining:
                self._finishing_prefills.append(self._prefills.popleft().served)
        return read

    def _start(self, served: Served, now_s: float) -> None:
        """A prompt is read: its first token is there."""
        if served.first_token_s is None:
            served.first_token_s = now_s
            served.produced = 1
            self.totals.committed_tokens += 1
        self._num_ids += 1
        first_place = self._texts.first_place(served.arrival.text)
        index = self._class_index[served.arrival.service_class]
        self._rows.add(f"r{self._num_ids}", served, first_place, index)

    def _commit(self, now_s: float) -> None:
        rows, step, totals = self._rows, self._step, self.totals
        num_requests = len(rows)
        drafted, places, lengths, num_tokens = self._drafts
        accepted = np.minimum(lengths, self._texts.would_accept_at(places))
        kept = accepted.tolist()
        num_accepted = sum(kept)
        ids = rows.ids
        if isinstance(drafted, np.ndarray):
            ids = [ids[i] for i in drafted.tolist()]
        if num_tokens:
            self.drafts.record(lengths, accepted, now_s)
            totals.drafts += len(kept)
            totals.draft_tokens += num_tokens
            totals.accepted_tokens += num_accepted
        self.policy.record_step(
            StepOutcome(
                step.n_tokens,
                num_requests,
                step.step_s,
                list(zip(ids, lengths.tolist(), kept, strict=True)),
                step.context_tokens,
                step.prompt_tokens,
            )
        )
        rows.advance(drafted, accepted, num_accepted)
        totals.committed_tokens += num_requests + num_accepted
        (has_ended,) = np.nonzero(rows.position > rows.last)
        ended = has_ended.tolist()
        if ended:
            for i in ended:
                totals.committed_tokens -= int(rows.position[i] - rows.last[i] - 1)
                rows.served[i].finished_s = now_s
                self._end(rows.ids[i], rows.served[i])
            rows.remove(ended)

    def _end(self, id_: str, served: Served) -> None:
        self.policy.forget(id_)
        assert served.ttft_s is not None
        assert served.tpot_s is not None
        one = self._classes[self._class_index[served.arrival.service_class]]
        self._count_outcome(served, is_met=one.is_met(served.ttft_s, served.tpot_s))

    def _count_outcome(self, served: Served, *, is_met: bool) -> None:
        counts = self._outcomes[served.arrival.service_class]
        counts[0] += 1
        counts[1] += is_met

    def _nothing_drafted(self, now_s: float) -> float:
        self._drafts = _NO_DRAFTS
        return now_s

    def _ask(self, now_s: float) -> float:
        """What the adapter does after a step; returns when drafts have come, or now."""
        rows = self._rows
        num_requests = len(rows)
        if self.policy.pauses(num_requests):
            return self._nothing_drafted(now_s)
        room = np.minimum(rows.last - rows.position, self._texts.gamma)
        ids = rows.ids
        (able,) = np.nonzero(room)
        candidates = ids if len(able) == num_requests else [ids[i] for i in able.tolist()]
        chosen = self.policy.choose(candidates, num_requests)
        if not chosen:
            return self._nothing_drafted(now_s)
        ready_s, is_answered, was_asked = self._draft(now_s, len(chosen))
        if not was_asked:
            return self._nothing_drafted(now_s)
        self._mean_wait_s += _MEAN * (ready_s - now_s - self._mean_wait_s)
        self.policy.record_draft(len(chosen), ready_s - now_s)
        some: NDArray[np.int64] | slice = _EVERY
        if len(chosen) < num_requests:
            asked = set(chosen)
            some = np.array([i for i, id_ in enumerate(ids) if id_ in asked])
        places = self._texts.places(rows.first_place[some], rows.position[some])
        if is_answered:
            self._admit(some, places, room)
        else:
            self._drafts = _Drafts(some, places, np.zeros(len(chosen), dtype=np.int64), 0)
        return ready_s

    def _admit(
        self,
        some: NDArray[np.int64] | slice,
        places: NDArray[np.int64],
        room: NDArray[np.int64],
    ) -> None:
        rows = self._rows
        lengths = self.drafts.admit(
            self.policy,
            self._texts.confidences_at(places),
            room[some],
            rows.seed[some],
            len(rows),
            self._terms(some),
        )
        self._drafts = _Drafts(some, places, lengths, sum(lengths.tolist()))

    def _terms(self, some: slice | NDArray[np.int64]) -> StepTerms:
        weights = None if self._weights is None else self._weights[self._rows.class_index]
        return step_terms(
            self.plan,
            len(self._rows),
            unread_tokens=sum(prefill.remaining for prefill in self._prefills),
            max_step_tokens=self._limits.max_step_tokens,
            max_requests=self._limits.seats,
            weights=weights,
            drafted=some,
        )
