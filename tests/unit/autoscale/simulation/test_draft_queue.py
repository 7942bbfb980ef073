"""How a simulated target waits for a drafter that others ask too."""

from __future__ import annotations

from itertools import pairwise

import pytest

from autoscale.simulation.draft_queue import DraftQueue, Reply

DEADLINE_S = 0.05


def queue(free_s, draft_s=0.02, drafter=0):
    return DraftQueue(free_s, lambda: drafter, lambda n: draft_s, DEADLINE_S)


def test_a_reply_comes_when_the_drafter_is_done_with_the_others():
    free_s = {0: 1.01}
    assert queue(free_s).ask(1.0, 4) == Reply(pytest.approx(1.03))
    assert free_s[0] == pytest.approx(1.03)


def test_who_waited_until_the_deadline_goes_on_without_and_the_drafter_drafts():
    free_s = {0: 1.04}
    assert queue(free_s).ask(1.0, 4) == Reply(pytest.approx(1.05), is_answered=False)
    assert free_s[0] == pytest.approx(1.06)


def test_a_drafter_that_never_answers_is_asked_ever_less_often():
    lost = queue({})
    asked_s, now_s = [], 0.0
    while now_s < 20.0:
        reply = lost.ask(now_s, 4)
        if reply.was_asked:
            asked_s.append(now_s)
        now_s = max(reply.at_s, now_s + 0.01)
    assert asked_s[:3] == pytest.approx([0.0, 0.05, 0.10])
    pauses = [b - a for a, b in pairwise(asked_s[2:])]
    assert pauses[:4] == pytest.approx([0.3, 0.55, 1.05, 2.05], abs=0.02)
    assert max(pauses) < 5.1


def test_another_drafter_is_asked_at_once():
    now = {"drafter": 0}
    queue = DraftQueue({1: 0.0}, lambda: now["drafter"], lambda n: 0.02, DEADLINE_S)
    for i in range(4):
        queue.ask(0.1 * i, 4)
    assert not queue.ask(0.31, 4).was_asked
    now["drafter"] = 1
    assert queue.ask(0.31, 4) == Reply(pytest.approx(0.33))
