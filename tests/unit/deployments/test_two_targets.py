"""A request that one target refuses or does not take is another's, and who is silent is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused, ReplicaState
from deployments.refusal import RefusedByAllError, TryLater
from deployments.taking import NotTakenError
from deployments.two_targets import COME_BACK_S, Terms, of_two_targets

SILENT = NotTakenError("r1")
SOON = Flow("soon", "acme")
ANSWER = ["first", "second"]


def turned_away(refused: Refused) -> RefusedByAllError:
    """As an ingress says it that tells everybody the same."""
    return RefusedByAllError(TryLater(refused.reason, refused.retry_after_s))


class Targets:
    """What each attempt brings, and how long it takes on a clock of their own."""

    def __init__(self, *attempts: Any, takes_s: float = 0.0) -> None:
        self._attempts = list(attempts)
        self._takes_s = takes_s
        self.now_s = 100.0
        self.terms: list[Terms] = []
        self.pool = PoolView()
        self.pool.keep(["a", "b"])

    async def attempt(self, terms: Terms) -> AsyncGenerator[Any, None]:
        self.terms.append(terms)
        self.now_s += self._takes_s
        outcome = self._attempts.pop(0)
        if isinstance(outcome, Exception):
            self.pool.sent("a", "r1", 10.0)
            raise outcome
        for item in [outcome] if isinstance(outcome, TryLater) else outcome:
            yield item

    def ask(self, patience_s: float | None = 8.0, num_unseen: int | None = 3) -> list[Any]:
        async def run() -> list[Any]:
            answer = of_two_targets(
                self.attempt,
                self.pool,
                SOON,
                turned_away,
                began_s=98.0,
                patience_s=patience_s,
                num_unseen=num_unseen,
                clock=lambda: self.now_s,
            )
            return [item async for item in answer]

        return asyncio.run(run())

    def refused(self, **how: Any) -> TryLater:
        with pytest.raises(RefusedByAllError) as raised:
            self.ask(**how)
        return raised.value.refusal


def test_the_first_that_takes_it_answers():
    targets = Targets(ANSWER)
    assert targets.ask() == ANSWER
    assert targets.terms == [
        Terms(num_unseen=3, waited_s=2.0, within_s=3.0, goes_elsewhere=True, refused_by="")
    ]


def test_who_does_not_take_it_is_silent_and_another_is_told_what_it_was():
    targets = Targets(SILENT, ANSWER, takes_s=3.0)
    assert targets.ask() == ANSWER
    assert targets.terms == [Terms(3, 2.0, 3.0, True, ""), Terms(3, 5.0, 3.0, False, "")]
    assert targets.pool.answering("ab") == ["b"]


def test_where_nobody_takes_it_none_lives_and_all_of_it_is_unseen_demand():
    targets = Targets(SILENT, SILENT)
    assert targets.refused() == TryLater("no_target", COME_BACK_S)
    assert targets.pool.take_unseen(100.0) == 4


def test_where_one_lives_that_was_too_busy_to_take_it_the_client_comes_back():
    targets = Targets(SILENT, SILENT)
    targets.pool.report("a", ReplicaState(1.0, 10.0), 99.0)
    assert targets.refused() == TryLater("too_late", 1.0)
    assert targets.pool.take_unseen(100.0) == 4
    targets = Targets(SILENT, SILENT)
    targets.pool.report("a", ReplicaState(1.0, 10.0), 90.0)  # and was stopped since
    assert targets.refused() == TryLater("no_target", COME_BACK_S)


def test_a_refusal_is_what_a_client_hears_of_beside_silence():
    late = TryLater("too_late", 2, "b")
    for attempts, num_unseen in (([SILENT, late], 0), ([late, SILENT], 1)):
        targets = Targets(*attempts)
        assert targets.refused() == TryLater("too_late", 2)
        # Whose refusal is not the last word leaves it to the next one to count the request.
        assert targets.pool.take_unseen(100.0) == num_unseen
    assert targets.terms == [Terms(3, 2.0, 3.0, True, ""), Terms(0, 2.0, 6.0, False, "b")]


def test_a_second_one_is_not_asked_where_it_is_known_to_refuse():
    targets = Targets(TryLater("too_late", 2, "a"))
    targets.pool.refused("b", SOON, Refused(1.0, "too_late"), 100.0)
    assert targets.refused() == TryLater("too_late", 2)
    assert targets.terms == [Terms(3, 2.0, 3.0, False, "")]


def test_who_is_silent_has_no_say_in_that():
    targets = Targets(SILENT, TryLater("too_late", 2, "b"))
    targets.refused()
    assert targets.pool.refused_by_all(SOON, 100.0) == Refused(2, "too_late")
    assert targets.pool.num_open(SOON, 100.0) == 0


def test_one_that_goes_on_waits_for_ever_and_is_no_demand():
    targets = Targets(SILENT, SILENT)
    targets.refused(patience_s=None, num_unseen=None)
    assert targets.terms == [Terms(0, 2.0, None, True, ""), Terms(0, 2.0, None, False, "")]
    assert targets.pool.take_unseen(100.0) == 0
