"""A mean round, from what targets and drafters have counted."""

from __future__ import annotations

from loadtest.rounds import Round, mean_round, table, totals_of


def entry(steps: int, *, is_split: bool = True) -> dict[str, object]:
    """A model in `GET /fleet` after so many rounds of 3 tokens."""
    stats = {
        "steps": steps,
        "committed_tokens": 3 * steps,
        "forward_s": 0.008 * steps,
        "sample_s": 0.001 * steps,
        "adapter_s": 0.0005 * steps,
        "draft_s": 0.006 * steps,
    }
    drafters = [{"stats": {"total_step_s": 0.005 * steps}}] if is_split else []
    return {"targets": [{"stats": stats}], "drafters": drafters}


def test_a_round_is_what_grew_over_the_steps():
    found = mean_round(totals_of(entry(10)), totals_of(entry(30)), tokens_per_s=150.0)
    counted = (found.tokens, found.wall_ms, found.forward_ms, found.sample_ms)
    assert [round(value, 6) for value in counted] == [3, 20, 8, 1]
    drafting = (found.adapter_ms, found.wait_ms, found.draft_ms, found.wire_ms, found.rest_ms)
    assert [round(value, 6) for value in drafting] == [0.5, 6, 5, 1, 4.5]


def test_a_colocated_drafter_computes_while_it_is_waited_for():
    before, after = (totals_of(entry(n, is_split=False)) for n in (10, 30))
    assert abs(mean_round(before, after, 150.0).wire_ms) < 1e-9


def test_without_speculation_a_round_is_a_token():
    nothing = totals_of({"targets": [{"stats": {"requests": 0}}]})
    assert mean_round(nothing, nothing, 80.0) == Round(1.0, 12.5)
    assert totals_of({}) == {}


def test_the_table_has_medians_and_no_zeros_for_what_is_not_counted():
    one = mean_round(totals_of(entry(10)), totals_of(entry(30)), 150.0)
    lines = table({"off": [Round(1.0, 12.5)], "split": [one, one]}).splitlines()
    assert lines[0] == "| | off | split |"
    assert "| round, ms | 12.50 | 20.00 |" in lines
    assert "| draft compute | - | 5.00 |" in lines
    assert lines[-1] == "| tokens/s | 80.0 | 150.0 |"
