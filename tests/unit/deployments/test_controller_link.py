"""Finding the controller holds up nobody, and what was found is kept for as long as it is good."""

from __future__ import annotations

import asyncio
import re
import threading
from pathlib import Path

import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from deployments.controller_link import ControllerLink, NoAnswerError

DEPLOYMENTS = Path(__file__).parents[3] / "deployments"


class Method:
    def __init__(self, answer):
        self._answer = answer

    async def remote(self, *args):
        if self._answer is None:
            await asyncio.Event().wait()
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer, args


class Controller:
    """Stands for the actor's handle; a method without an answer never gives one."""

    def __init__(self, answer):
        self.report = Method(answer)


class Head:
    """Stands for Ray's: the controllers it names, one look-up after the other."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.asked = []

    def __call__(self, app_name):
        self.asked.append(app_name)
        answer = self._answers.pop(0)
        if isinstance(answer, ValueError):
            raise answer
        return Controller(answer)


def test_what_was_found_is_kept():
    async def twice():
        return [await link.ask("report", number) for number in (1, 2)]

    link = ControllerLink("app", head := Head("plan"))
    assert asyncio.run(twice()) == [("plan", (1,)), ("plan", (2,))]
    assert head.asked == ["app"]


def fails_then_answers(head, **options):
    async def both():
        with pytest.raises(NoAnswerError):
            await link.ask("report", **options)
        return await link.ask("report")

    link = ControllerLink("app", head)
    return asyncio.run(both())


@pytest.mark.parametrize("first", [ActorDiedError(), ValueError("no such actor")])
def test_after_an_actors_error_it_is_looked_up_anew(first):
    head = Head(first, "plan")
    assert fails_then_answers(head) == ("plan", ())
    assert len(head.asked) == 2


def test_a_controller_that_does_not_answer_is_given_up_and_looked_up_anew():
    head = Head(None, "plan")
    assert fails_then_answers(head, within_s=0.01) == ("plan", ())
    assert len(head.asked) == 2


def test_a_controller_that_failed_at_a_question_is_still_the_one():
    head = Head(RayTaskError("report", "what was asked", ValueError("no")))
    link = ControllerLink("app", head)

    async def twice():
        for _ in range(2):
            with pytest.raises(NoAnswerError, match="what was asked"):
                await link.ask("report")

    asyncio.run(twice())
    assert len(head.asked) == 1


def test_a_head_that_does_not_answer_costs_one_thread_and_no_tokens():
    answers = threading.Event()
    head = Head("plan")

    def stuck(app_name):
        assert answers.wait(60), "the event loop stood still"
        return head(app_name)

    async def meanwhile():
        link = ControllerLink("app", stuck)
        for _ in range(20):  # more than the loop has threads
            with pytest.raises(NoAnswerError):
                await link.ask("report", within_s=0.001)
        answers.set()
        return await link.ask("report")

    assert asyncio.run(meanwhile()) == ("plan", ())
    assert len(head.asked) == 1


def test_nobody_else_looks_the_controller_up():
    blocks = re.compile(r"\b(get_actor|find_controller)\b")
    found = {path.name for path in DEPLOYMENTS.rglob("*.py") if blocks.search(path.read_text())}
    assert found == {"controller_link.py"}
