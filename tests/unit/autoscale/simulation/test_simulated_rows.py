"""What a simulated replica keeps per request: its row, and whether its draft explores."""

from __future__ import annotations

import numpy as np

from autoscale.exploration import EXPLORATION_RATE, request_seed
from autoscale.simulation.confidences import Explorers
from autoscale.simulation.served import DecodingRows, Served
from autoscale.simulation.traces import Arrival


def rows_of(*prompt_tokens: int) -> DecodingRows:
    rows = DecodingRows(capacity=8)
    for i, prompt in enumerate(prompt_tokens):
        served = Served(Arrival(0.0, prompt, 20 + i, "batch"), produced=i)
        rows.add(f"r{i}", served, first_place=100 * i, class_index=i % 2)
    return rows


def test_rows_advance_by_a_token_and_what_was_accepted():
    rows = rows_of(50, 60, 70)
    rows.advance(np.array([0, 2]), np.array([3, 1]), num_accepted=4)
    assert rows.position.tolist() == [4, 2, 4]
    assert rows.context_tokens == 50 + 60 + 70 + 0 + 1 + 2 + 3 + 4
    rows.advance(slice(None), np.array([1, 0, 2]), num_accepted=3)
    assert rows.position.tolist() == [6, 3, 7]


def test_rows_taken_out_leave_the_others_in_order():
    rows = rows_of(50, 60, 70, 80)
    rows.remove([0, 2])
    assert rows.ids == ["r1", "r3"]
    assert [one.arrival.prompt_tokens for one in rows.served] == [60, 80]
    assert rows.first_place.tolist() == [100, 300]
    assert rows.last.tolist() == [20, 22]
    assert rows.class_index.tolist() == [1, 1]
    assert rows.seed.tolist() == [request_seed("r1"), request_seed("r3")]
    assert rows.context_tokens == 60 + 1 + 80 + 3


def test_who_explores_is_drawn_as_if_one_by_one():
    drawn = np.random.default_rng(5).random(5000) < EXPLORATION_RATE
    explorers = Explorers(np.random.default_rng(5))
    seen, first = [], 0
    for num_requests in (64, 0, 1, 900, 3000, 1035):
        seen += [first + row for row in explorers.of_next(num_requests)]
        first += num_requests
    assert seen == np.flatnonzero(drawn).tolist()
