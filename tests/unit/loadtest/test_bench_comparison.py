import math
from dataclasses import replace

import pytest

from loadtest.report.comparison import JUDGED, Comparison, compare
from profiles.frontier import METRICS, Point, RunMetrics

STEADY = {
    "num_requests": 6,
    "error_rate": 0.0,
    "ttft_s": 0.1,
    "ttft_p99_s": 0.2,
    "tpot_s": 0.01,
    "itl_p50_s": 0.01,
    "itl_p99_s": 0.02,
    "tokens_per_s_per_user": 100.0,
    "tokens_per_s_per_replica": 400.0,
    "goodput_per_s": 2.0,
}


def point(arm: str = "on", load: float = 1.0, **rounds: tuple[float, ...]) -> Point:
    """Three runs, all the same but for metrics given run by run."""
    known = dict.fromkeys(METRICS, math.nan) | STEADY
    runs = [RunMetrics(**known | {k: v[i] for k, v in rounds.items()}) for i in range(3)]
    return Point(arm, "closed", load, "", 0, tuple(runs))


def test_all_that_users_feel_is_judged_each_in_its_direction():
    assert {one.metric: one.better for one in JUDGED} == {
        "tokens_per_s_per_user": 1,
        "tokens_per_s_per_replica": 1,
        "goodput_per_s": 1,
        "ttft_s": -1,
        "ttft_p99_s": -1,
        "tpot_s": -1,
        "itl_p50_s": -1,
        "itl_p99_s": -1,
        "error_rate": -1,
    }


@pytest.mark.parametrize("metric", [one.metric for one in JUDGED])
def test_every_metric_is_named_where_it_became_worse_and_only_there(metric: str):
    (column,) = (one for one in JUDGED if one.metric == metric)
    less, more = point(**{metric: (0.19, 0.2, 0.21)}), point(**{metric: (0.39, 0.4, 0.41)})
    worse, better = (less, more) if column.better > 0 else (more, less)
    (named,) = compare([worse], [better]).worse
    assert named.startswith(f"on at closed:1: {column.name} ")
    assert compare([better], [worse]).worse == []


def judged(now: Point, before: Point, name: str) -> tuple[str, str]:
    """How one metric reads, and what is said of it."""
    changes = compare([now], [before]).changes
    (one,) = (change for change in changes if change.column.name == name)
    return one.text, one.verdict


def test_a_change_has_both_values_their_ratio_and_its_interval():
    now, before = point(ttft_s=(0.2, 0.21, 0.22)), point(ttft_s=(0.1, 0.1, 0.1))
    # t(2) 4.303, standard error of the mean 0.01 / sqrt(3), over 0.1.
    assert judged(now, before, "TTFT ms") == ("100 → 210 (2.10x ± 0.25)", "worse")


def test_a_change_inside_the_interval_is_none():
    now = point(tokens_per_s_per_user=(80.0, 100.0, 105.0))
    assert judged(now, point(), "tokens/s/user")[1] == "within the interval"
    assert compare([now], [point()]).worse == []


def test_errors_where_there_were_none_have_a_difference_and_come_first():
    now = point(error_rate=(0.5, 0.5, 0.5), ttft_s=(1.0, 1.0, 1.0))
    first, second = compare([now], [point()]).worse
    assert first == "on at closed:1: errors % 0 → 50 (+50 ± 0)"
    assert second == "on at closed:1: TTFT ms 100 → 1,000 (10.00x ± 0.00)"


def test_errors_that_went_away_have_a_difference_below_none():
    text, verdict = judged(point(), point(error_rate=(0.0, 0.0, 0.3)), "errors %")
    assert text.startswith("10 → 0 (-10 ± ")
    assert verdict == "within the interval"


def test_a_single_run_is_not_judged_and_that_is_said():
    now = point(tokens_per_s_per_user=(1.0, 1.0, 1.0))
    found = compare([replace(now, runs=now.runs[:1])], [point()])
    assert found.worse == []
    assert found.unjudged == ["on at closed:1"]
    assert set(found.findings()) == {"Became worse", "Not judged, as one result has a single run"}


def test_what_one_of_the_two_lacks_is_named():
    nothing = (math.nan,) * 3
    now = [point("on", tpot_s=nothing), point("new")]
    before = [point("on"), point("on", 8.0), point("gone")]
    assert compare(now, before).missing == [
        "on at closed:8: only before",
        "gone at closed:1: only before",
        "new at closed:1: only now",
        "on at closed:1: TPOT ms only before",
    ]


def test_the_table_has_a_verdict_in_every_cell_and_a_direction_over_it():
    now = point(tpot_s=(math.nan,) * 3)
    table = compare([now], [point(tpot_s=(math.nan,) * 3)]).table()
    assert table.header[1] == "tokens/s/user (more is better)"
    assert table.header[3] == "TTFT ms (less is better)"
    ((where, *cells),) = table.rows
    assert where == "on at closed:1"
    assert cells[0] == "100 → 100 (1.00x ± 0.00), within the interval"
    assert cells[table.header.index("TPOT ms (less is better)") - 1] == "-"


def test_equal_results_have_nothing_to_say():
    found = compare([point()], [point()])
    assert found.findings() == {"Became worse": ["nothing beyond its interval"]}
    assert isinstance(found, Comparison)
