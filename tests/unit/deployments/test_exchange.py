"""A target's exchange: it reports at the pace that its plans tell, and outlasts its controller."""

from __future__ import annotations

import asyncio

import pytest

from cluster.fleet_bench import target_reports
from cluster.held_plan import HeldPlan
from cluster.messages import TargetPlan
from deployments import exchange
from deployments.controller_link import NoAnswerError


class Metrics:
    def __init__(self):
        self.told = {}

    def publish(self, samples):
        self.told |= {sample.name: sample.value for sample in samples}


class Link:
    """Stands for the controller: its answers in turn; None where there is none."""

    def __init__(self, *answers):
        self._answers = list(answers)
        self.reports = []

    async def ask(self, method, report):
        self.reports.append(report)
        answer = self._answers.pop(0)
        if answer is None:
            raise NoAnswerError("nobody is there")
        return answer


class Heard:
    """Stands for readers: which ingresses were said to be gone."""

    def __init__(self):
        self.told = []

    def gone(self, ingresses):
        self.told.append(tuple(ingresses))


def exchanged(monkeypatch, link, readers=None):
    """The pauses between exchanges until the answers are used up, the metrics, plans gone by."""
    pauses, metrics, gone_by, held = [], Metrics(), [], HeldPlan()
    (report,) = target_reports(1)

    async def sleep(pause_s):
        pauses.append(pause_s)
        if not link._answers:
            raise asyncio.CancelledError

    async def go_by_plan():
        gone_by.append(held.plan.seq)

    monkeypatch.setattr(exchange, "ControllerLink", lambda app_name: link)
    monkeypatch.setattr(exchange, "next_in_s", lambda interval_s: interval_s)
    monkeypatch.setattr("deployments.exchange.asyncio.sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(
            exchange.exchange_forever(
                "app",
                held,
                metrics,
                report=lambda: _given(report),
                latencies=list,
                readers=readers or Heard(),
                go_by_plan=go_by_plan,
            )
        )
    return pauses, metrics.told, gone_by


async def _given(report):
    return report


def plan(seq, **fields):
    return TargetPlan(None, "secret", seq=seq, **fields)


def test_a_target_reports_at_the_pace_of_its_plan_and_says_so(monkeypatch):
    link = Link(plan(1), plan(2, interval_s=2.0), plan(3, interval_s=1.0))
    pauses, _, gone_by = exchanged(monkeypatch, link)
    assert pauses == [0.5, 2.0, 1.0]
    assert [report.interval_s for report in link.reports] == [0.5, 0.5, 2.0]
    assert gone_by == [1, 2, 3]


def test_without_an_answer_it_goes_on_at_its_pace_and_counts(monkeypatch):
    pauses, told, gone_by = exchanged(monkeypatch, Link(plan(1, interval_s=2.0), None, None))
    assert pauses == [2.0, 2.0, 2.0]
    assert told["dspark_exchange_failures"] == 2
    assert gone_by == [1]


def test_of_plans_that_are_taken_readers_hear_who_is_gone(monkeypatch):
    readers = Heard()
    answers = (plan(1, gone_ingresses=("i1",)), plan(1, gone_ingresses=("i2",)), plan(2))
    exchanged(monkeypatch, Link(*answers), readers)
    assert readers.told == [("i1",), ()]
