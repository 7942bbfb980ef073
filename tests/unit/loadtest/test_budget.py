"""Draft tokens per request and step, from a fleet's totals."""

from __future__ import annotations

import json

from loadtest.budget import budget_point, save_budgets, table_row

BEFORE = {
    "committed_tokens": 1000,
    "draft_tokens": 500,
    "accepted_tokens": 200,
    "expected_tokens": 210.0,
}
AFTER = {
    "committed_tokens": 1400,  # 200 accepted, so 200 requests in all steps
    "draft_tokens": 1100,
    "accepted_tokens": 400,
    "expected_tokens": 400.0,
}


def test_requests_of_all_steps_are_what_is_committed_without_drafts():
    point = budget_point(4, BEFORE, AFTER, 123.4)
    assert (point.budget_tokens, point.accepted_tokens, point.expected_tokens) == (3.0, 1.0, 0.95)
    assert table_row(point) == "| 4 | 3.00 | 1.00 | 0.95 | 123 |"


def test_where_nothing_ran_the_budget_is_nothing():
    assert budget_point(1, BEFORE, BEFORE, 0.0).budget_tokens == 0.0


def test_points_are_kept_as_numbers_or_a_picture(tmp_path):
    points = [budget_point(n, BEFORE, AFTER, 100.0) for n in (1, 2)]
    save_budgets(points, tmp_path / "b.json")
    assert json.loads((tmp_path / "b.json").read_text())[1]["concurrency"] == 2
    save_budgets(points, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
