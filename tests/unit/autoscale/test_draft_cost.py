"""What drafting is believed to cost by the number of requests."""

from __future__ import annotations

import pytest

from autoscale.draft_cost import DraftCost


def test_what_others_told_takes_the_level_of_what_is_seen():
    cost = DraftCost({4: 0.008, 8: 0.010})
    cost.record(4, 0.016)
    assert cost.at(8) == pytest.approx(0.020)
    assert cost.mean_s == pytest.approx({4: 0.016, 8: 0.020})


def test_after_a_doubt_the_first_draft_counts_alone():
    cost = DraftCost()
    for _ in range(50):
        cost.record(4, 0.5)
    cost.doubt()
    assert cost.at(4) == pytest.approx(0.5)
    cost.record(4, 0.008)
    assert cost.at(4) == pytest.approx(0.008)


def test_counts_that_have_not_come_up_since_a_doubt_keep_their_shape():
    cost = DraftCost()
    cost.record(4, 0.008)
    cost.record(8, 0.009)
    cost.doubt()
    cost.record(4, 0.016)
    assert cost.at(8) == pytest.approx(0.018)


def test_a_count_that_was_slow_is_not_held_slow_after_a_doubt():
    """At most as much slower as more requests usually are."""
    cost = DraftCost()
    cost.record(4, 0.008)
    cost.record(8, 0.062)
    cost.doubt()
    cost.record(4, 0.008)
    assert cost.at(8) == pytest.approx(0.012)
    cost.record(8, 0.062)
    assert cost.at(8) == pytest.approx(0.062)
