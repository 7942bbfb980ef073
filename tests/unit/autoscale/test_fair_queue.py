from __future__ import annotations

import math
from dataclasses import dataclass

import pytest

from autoscale.fair_queue import FairQueue
from autoscale.service_class import ServiceClass

PLAIN = ServiceClass("plain", math.inf, math.inf)
GOLD = ServiceClass("gold", math.inf, math.inf, weight=3.0)
URGENT = ServiceClass("urgent", math.inf, math.inf, priority=1)


@dataclass(eq=False)
class Item:
    name: str
    service_class: ServiceClass = PLAIN
    tenant: str = "a"
    work: float = 1.0
    continues: bool = False


def queue_of(*items: Item) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for item in items:
        queue.push(item)
    return queue


def order(queue: FairQueue[Item]) -> str:
    names = []
    while heads := queue.heads():
        queue.take(heads[0])
        names.append(heads[0].name)
    return "".join(names)


def test_one_tenant_is_served_in_the_order_of_arrival():
    assert order(queue_of(*(Item(name) for name in "123"))) == "123"


def test_a_tenant_with_a_long_line_does_not_hold_up_another():
    queue = queue_of(*(Item("A") for _ in range(6)), *(Item("B", tenant="b") for _ in range(2)))
    assert order(queue) == "ABABAAAA"


def test_tenants_are_charged_by_work_not_by_requests():
    queue = queue_of(
        *(Item("A", work=4.0) for _ in range(2)), *(Item("b", tenant="b") for _ in range(6))
    )
    assert order(queue) == "AbbbbAbb"


def test_classes_share_by_weight():
    queue = queue_of(
        *(Item("p") for _ in range(3)), *(Item("G", GOLD, tenant="b") for _ in range(6))
    )
    assert order(queue) == "pGGGpGGGp"


def test_a_second_tenant_does_not_enlarge_the_share_of_a_class():
    queue = queue_of(
        *(Item("p") for _ in range(2)),
        *(Item("g", GOLD, tenant="b") for _ in range(3)),
        *(Item("h", GOLD, tenant="c") for _ in range(3)),
    )
    assert order(queue) == "pghgphgh"


def test_higher_priority_goes_first():
    assert order(queue_of(Item("p"), Item("p"), Item("U", URGENT))) == "Upp"


def test_being_away_earns_no_credit():
    queue = queue_of(*(Item("A") for _ in range(3)))
    assert order(queue) == "AAA"
    for item in (*(Item("A") for _ in range(3)), *(Item("B", tenant="b") for _ in range(3))):
        queue.push(item)
    assert order(queue) == "BABABA"


def test_what_is_removed_is_neither_served_nor_charged():
    first, second = Item("1"), Item("2")
    queue = queue_of(first, second)
    queue.remove(first)
    assert len(queue) == 1
    assert order(queue) == "2"
    with pytest.raises(ValueError, match="not queued"):
        queue.remove(first)


def test_a_newcomer_waits_for_all_of_its_own_line_and_for_higher_priorities():
    queue = queue_of(Item("1", work=5.0), Item("U", URGENT, work=2.0))
    assert queue.work_ahead(Item("new")) == 7.0


def test_a_newcomer_waits_for_no_more_of_others_than_their_share():
    queue = queue_of(*(Item("B", tenant="b", work=10.0) for _ in range(5)))
    assert queue.work_ahead(Item("new", work=4.0)) == 4.0
    assert queue.work_ahead(Item("new", GOLD, work=6.0)) == 2.0


def test_a_class_with_more_tenants_is_not_waited_for_longer():
    queue = queue_of(*(Item("g", GOLD, tenant=t, work=100.0) for t in "bcd"))
    # Three times the own work by weight, among all three of them.
    assert queue.work_ahead(Item("new", work=4.0)) == 12.0


def test_nobody_waits_for_lower_priorities():
    assert queue_of(Item("p", work=5.0)).work_ahead(Item("U", URGENT)) == 0.0


def test_what_is_urgent_takes_no_time_from_the_shares_of_those_below():
    queue = queue_of(
        *(Item("p") for _ in range(3)), *(Item("G", GOLD, tenant="b") for _ in range(6))
    )
    found = ""
    while heads := queue.heads():
        queue.take(heads[0])
        found += heads[0].name
        urgent = Item("u", URGENT, work=100.0)
        queue.push(urgent)
        queue.take(urgent)
    assert found == "pGGGpGGGp"


def test_what_continues_goes_before_everything_in_the_order_in_which_it_came():
    queue = queue_of(Item("1"), Item("U", URGENT), Item("B", tenant="b"))
    for name in "xyz":
        queue.push(Item(name, continues=True))
    assert order(queue) == "xyzUB1"
