from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from autoscale.assignment import assign_drafters

NAMES = st.sets(st.text("abcdefgh", min_size=1, max_size=2), max_size=8)


def test_targets_spread_over_drafters():
    assigned = assign_drafters(["t1", "t2", "t3", "t4"], ["d1", "d2"], {})
    assert Counter(assigned.values()) == {"d1": 2, "d2": 2}


def test_only_the_targets_of_a_lost_drafter_move():
    before = {"t1": "d1", "t2": "d2", "t3": "d1", "t4": "d2"}
    after = assign_drafters(before, ["d2", "d3"], before)
    assert after == {"t1": "d3", "t2": "d2", "t3": "d3", "t4": "d2"}


def test_a_new_drafter_takes_only_what_is_over_the_even_share():
    before = {"t1": "d1", "t2": "d1"}
    assert assign_drafters(before, ["d1", "d2"], before) == {"t1": "d1", "t2": "d2"}


def test_no_drafters_no_assignment():
    assert assign_drafters(["t1"], [], {"t1": "d1"}) == {}


@given(NAMES, NAMES, st.dictionaries(st.text("abc", max_size=1), st.text("abc", max_size=1)))
def test_balanced_and_stable(targets, drafters, current):
    assigned = assign_drafters(targets, drafters, current)
    if not drafters:
        assert assigned == {}
        return
    load = Counter(assigned.values())
    assert set(assigned) == targets
    assert max(load.values(), default=0) <= -(-len(targets) // len(drafters))
    assert assign_drafters(targets, drafters, assigned) == assigned
