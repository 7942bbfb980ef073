from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from autoscale.assignment import assign_drafters
from autoscale.draft_load import DraftLoads

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


def test_a_busy_target_has_its_drafter_to_itself():
    load = {"t1": 300.0, "t2": 100.0, "t3": 100.0, "t4": 100.0}
    even = {"t1": "d1", "t2": "d1", "t3": "d2", "t4": "d2"}
    assert assign_drafters(load, ["d1", "d2"], even, load) == even | {"t2": "d2"}


def test_where_one_target_alone_is_too_much_others_still_move():
    load = {"t0": 1000.0} | {f"t{i}": 100.0 for i in range(1, 5)}
    before = {"t0": "d1", "t1": "d2", "t2": "d2", "t3": "d2", "t4": "d2"}
    after = assign_drafters(before, ["d1", "d2", "d3"], before, load)
    assert after == before | {"t3": "d3", "t4": "d3"}


def test_the_targets_of_a_lost_drafter_go_where_least_is_wanted_the_busiest_first():
    load = {"t1": 90.0, "t2": 30.0, "t3": 60.0, "t4": 100.0}
    before = {"t1": "gone", "t2": "gone", "t3": "d1", "t4": "d2"}
    after = assign_drafters(before, ["d1", "d2"], before, load)
    assert after == before | {"t1": "d1", "t2": "d2"}


def test_what_differs_by_less_than_the_band_moves_nobody():
    before = {f"t{i}": "d1" if i < 50 else "d2" for i in range(100)}
    load = {target: 103.0 if drafter == "d1" else 97.0 for target, drafter in before.items()}
    assert assign_drafters(before, ["d1", "d2"], before, load) == before


def test_idle_targets_are_spread_as_if_nothing_were_known():
    before = {"t1": "d1", "t2": "d1"}
    load = {"t1": 0.09, "t2": 0.0}
    assert assign_drafters(before, ["d1", "d2"], before, load) == before | {"t2": "d2"}


def test_a_target_of_which_nothing_is_known_weighs_as_a_usual_one():
    load = {"t1": 100.0, "t2": 100.0}
    current = {"t1": "d1", "t2": "d2"}
    after = assign_drafters([*load, "t3", "t4"], ["d1", "d2"], current, load)
    assert after == current | {"t3": "d1", "t4": "d2"}


LOADS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.floats(0, 1e6))


@given(NAMES, NAMES, LOADS)
def test_by_load_too_everybody_has_one_and_stays_with_it(targets, drafters, load):
    assigned = assign_drafters(targets, drafters, {}, load)
    assert set(assigned) == (targets if drafters else set())
    assert set(assigned.values()) <= drafters
    assert assign_drafters(targets, drafters, assigned, load) == assigned


@given(st.integers(1, 4), st.integers(2, 4), st.data())
def test_noise_moves_nobody(num_each, num_drafters, data):
    before = {f"t{i}": f"d{i % num_drafters}" for i in range(num_each * num_drafters)}
    drafters = set(before.values())
    load = {target: data.draw(st.floats(90.0, 110.0)) for target in before}
    assert assign_drafters(before, drafters, before, load) == before


def test_a_targets_load_is_of_the_last_half_minute_and_known_after_a_while():
    loads = DraftLoads()
    loads.follow("t1", 100.0, 0.0)
    loads.follow("t2", 100.0, 0.0)
    assert loads.known() == {}
    for second in range(1, 11):
        loads.follow("t1", 100.0, float(second))
    assert loads.known() == {"t1": 100.0}
    for second in range(11, 31):
        loads.follow("t1", 0.0, float(second))
    assert 50.0 < loads.known()["t1"] < 52.0  # exp(-20 / 30) of it
    loads.forget("t1")
    assert loads.known() == {}
