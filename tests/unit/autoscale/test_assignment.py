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


def test_a_new_drafter_is_not_left_idle():
    before = {"t1": "d1", "t2": "d1", "t3": "d2", "t4": "d2"}
    after = assign_drafters(before, ["d1", "d2", "d3"], before)
    assert Counter(after.values()) == {"d1": 2, "d2": 1, "d3": 1}
    assert sum(after[target] != before[target] for target in before) == 1


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
    share, over = divmod(len(targets), len(drafters))
    assert (
        sorted(load[name] for name in drafters)
        == [share] * (len(drafters) - over) + [share + 1] * over
    )
    # No fewer moves would do: of each drafter's targets as many stay as balance lets stay.
    had = Counter(current[target] for target in targets if current.get(target) in drafters)
    keeps = sum(min(had[name], share) for name in drafters)
    keeps += min(over, sum(had[name] > share for name in drafters))
    assert sum(current.get(target) == drafter for target, drafter in assigned.items()) >= keeps
    assert assign_drafters(targets, drafters, assigned) == assigned
