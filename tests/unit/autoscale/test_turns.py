from __future__ import annotations

import math
from dataclasses import replace

import pytest

from autoscale.fair_queue import Flow
from autoscale.service_class import ServiceClass
from autoscale.turns import LATEST_S, Turns

PLAIN = ServiceClass("plain", math.inf, math.inf)
GOLD = replace(PLAIN, name="gold", weight=3.0)
URGENT = replace(PLAIN, name="urgent", priority=1)


def give(turns: Turns, one: ServiceClass, work_s: float, now_s: float, tenant: str = "a") -> float:
    return turns.give(Flow(one.name, tenant), one, work_s, now_s)


def test_turns_of_a_line_come_one_after_the_other():
    turns = Turns()
    assert [give(turns, PLAIN, 2.0, 0.0) for _ in range(3)] == [2.0, 4.0, 6.0]
    assert give(turns, PLAIN, 2.0, 5.0) == 3.0
    assert give(turns, PLAIN, 2.0, 100.0) == 2.0  # whoever had one may have come


def test_what_is_not_known_to_take_time_takes_none():
    assert give(Turns(), PLAIN, 0.0, 7.0) == 0.0


def test_another_tenants_turns_are_not_waited_for_beyond_its_share():
    turns = Turns()
    for _ in range(10):
        give(turns, PLAIN, 1.0, 0.0)
    assert give(turns, PLAIN, 1.0, 0.0, "b") == 2.0


def test_classes_share_by_weight():
    turns = Turns()
    give(turns, PLAIN, 10.0, 0.0)
    assert give(turns, GOLD, 3.0, 0.0) == pytest.approx(4.0)


def test_higher_priorities_have_their_turns_first():
    turns = Turns()
    for _ in range(10):
        give(turns, PLAIN, 1.0, 0.0)
    assert give(turns, URGENT, 1.0, 0.0) == 1.0
    assert give(turns, URGENT, 1.0, 0.0) == 2.0
    assert give(turns, GOLD, 3.0, 0.0) == pytest.approx(2.0 + 4.0)


def test_nobody_is_sent_away_for_long_and_who_is_holds_no_turn():
    turns = Turns()
    assert give(turns, PLAIN, 40.0, 0.0) == 40.0
    assert give(turns, PLAIN, 10.0, 0.0) == LATEST_S
    assert give(turns, PLAIN, 5.0, 0.0) == 45.0
