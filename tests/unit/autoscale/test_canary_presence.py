"""Drafters on trial that are not there, and when nobody waits for them any more."""

from __future__ import annotations

from autoscale.canary_presence import ABSENT_S, Presence


def test_time_without_any_replica_is_bounded_and_begins_anew_with_one():
    presence = Presence(100.0)
    assert presence.reason_to_end(100.0 + ABSENT_S) is None
    assert presence.reason_to_end(100.1 + ABSENT_S) is not None
    presence.see({"a"}, 200.0)
    assert presence.is_there
    presence.see(set(), 201.0)
    assert not presence.is_there
    assert presence.reason_to_end(200.0 + ABSENT_S) is None
    assert presence.reason_to_end(200.1 + ABSENT_S) is not None


def losing(num_replicas, num_lost):
    """One after another is lost, and another comes for it."""
    presence = Presence(0.0)
    names = [f"d{i}" for i in range(num_replicas + num_lost)]
    for i in range(num_lost + 1):
        presence.see(set(names[i : i + num_replicas]), float(i))
    return presence.reason_to_end(float(num_lost))


def test_of_each_replica_three_may_be_lost_on_average():
    assert losing(1, 2) is None
    assert losing(1, 3) == "its replicas crash: 3 were lost; see their logs"
    assert losing(100, 299) is None
    assert losing(100, 300) is not None
