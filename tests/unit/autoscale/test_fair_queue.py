from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

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
    assert queue.work_ahead(Item("new")) == 10.0  # whoever came first has the first turn
    queue.push(Item("A", work=25.0))
    assert queue.work_ahead(Item("new")) == 25.0 + 30.0
    assert queue.work_ahead(Item("new", GOLD)) == 10.0


def test_how_large_a_newcomer_is_makes_it_wait_no_longer():
    queue = queue_of(Item("B", tenant="b", work=10.0), Item("A", work=5.0))
    assert (
        queue.work_ahead(Item("new", work=1e6)) == queue.work_ahead(Item("new", work=0.0)) == 15.0
    )


def test_a_class_with_more_tenants_is_not_waited_for_longer():
    queue = queue_of(Item("p", work=4.0), *(Item("g", GOLD, tenant=t, work=5.0) for t in "bcd"))
    # By weight three times 4, which begins in the last of them.
    assert queue.work_ahead(Item("new")) == 4.0 + 15.0


@pytest.mark.parametrize("seed", range(30))
def test_what_is_said_to_be_ahead_of_a_newcomer_is_what_is_served_before_it(seed):
    rng = random.Random(seed)
    classes = (PLAIN, GOLD, URGENT, replace(GOLD, name="silver", weight=2.0))

    def anyone(name: str) -> Item:
        return Item(name, rng.choice(classes), rng.choice("abcd"), rng.uniform(1, 100))

    queue = queue_of(*(anyone(f"was {i}") for i in range(rng.randrange(30))))
    for _ in range(len(queue) // 2):
        queue.take(queue.heads()[0])
    for i in range(rng.randrange(20)):
        queue.push(anyone(f"came {i}"))
    newcomer = anyone("new")
    ahead = queue.work_ahead(newcomer)
    queue.push(newcomer)
    served = 0.0
    while (head := queue.heads()[0]) is not newcomer:
        queue.take(head)
        served += head.work
    assert ahead == pytest.approx(served)


def test_who_goes_first_is_the_last_of_the_longest_line_of_the_lowest_priority():
    queue = queue_of(
        *(Item(f"U{i}", URGENT) for i in range(4)),
        *(Item(f"a{i}") for i in range(3)),
        *(Item(f"b{i}", tenant="b") for i in range(2)),
    )
    gone = []
    for _ in range(6):
        gone.append(queue.last_in_line())
        queue.remove(gone[-1])
    assert [one.name for one in gone] == ["a2", "b1", "a1", "b0", "a0", "U3"]


def test_what_continues_is_waited_for_by_everybody():
    queue = queue_of(Item("x", work=7.0, continues=True), Item("p", work=5.0))
    assert queue.work_ahead(Item("new", URGENT)) == 7.0
    assert queue.work_ahead(Item("new")) == 12.0


def test_what_continues_never_has_to_go():
    queue = queue_of(Item("U", URGENT), *(Item("p", continues=True) for _ in range(3)))
    assert queue.last_in_line().name == "U"


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
