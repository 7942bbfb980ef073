import math
from dataclasses import replace

import pytest

from profiles.frontier import CurveKey, Slo
from profiles.load_records import LoadRecords
from profiles.matched_throughput import matched, matched_by_round, user_speed_at
from tests.unit.profiles.load_rows import request_row, run_row
from tests.unit.profiles.test_frontier import point

SLO = Slo(1.0, 1.0)
ON, OFF = CurveKey("on", 0), CurveKey("off", 0)


def test_between_points_is_a_line_and_beyond_them_nothing():
    arm = [point(10, 100), point(20, 60)]
    assert user_speed_at(arm, 15) == 80
    assert user_speed_at(arm, 10) == 100
    assert math.isnan(user_speed_at(arm, 9.9))
    assert math.isnan(user_speed_at(arm, 20.1))
    assert math.isnan(user_speed_at([], 1))


def test_speeds_are_matched_only_where_both_were_measured():
    reference = [point(5, 50), point(15, 40), point(30, 20)]
    pairs = matched([point(10, 100), point(20, 60)], reference)
    assert [(p.tokens_per_s_per_replica, p.user, p.reference_user) for p in pairs] == [(15, 80, 40)]
    assert pairs[0].ratio == 2


def test_at_light_load_an_arm_is_what_was_measured_and_not_its_fastest_point():
    arm = [point(32, 98.0), point(98, 108.0), point(230, 70.0), point(432, 32.0)]
    assert user_speed_at(arm, 65) == 103.0
    assert math.isnan(user_speed_at(arm, 31))
    (pair,) = matched(arm, [point(73, 50.0)])
    assert pair.user == pytest.approx(98 + 10 * (73 - 32) / (98 - 32))


def runs_of(arm: str, round_: int, *speeds: tuple[float, int, int]) -> LoadRecords:
    """A run per (clients, milliseconds a token, requests at once), all of ten tokens."""
    runs, requests = [], []
    for clients, token_ms, count in speeds:
        run_id = f"{arm} {clients} {round_}"
        window_s = 10 * token_ms / 1000
        runs.append(run_row(run_id, arm=arm, round=round_, load_value=clients, window_s=window_s))
        gaps = {"gap_us": (1000 * token_ms,) * 10, "chunk_tokens": (1,) * 10}
        requests += [request_row(run_id, number=i, **gaps) for i in range(count)]
    return LoadRecords(tuple(runs), tuple(requests), {})


def joined(*parts: LoadRecords) -> LoadRecords:
    return LoadRecords(
        tuple(run for part in parts for run in part.runs),
        tuple(row for part in parts for row in part.requests),
        {},
    )


def test_a_slow_minute_that_both_share_widens_no_interval():
    """Round 2 takes three times as long, for either arm: its ratio is that of round 1."""
    parts = [
        runs_of(arm, round_, *((clients, slow * ms, n) for clients, ms, n in speeds))
        for round_, slow in ((1, 1), (2, 3))
        for arm, speeds in (("off", [(2, 20, 2)]), ("on", [(1, 10, 1), (4, 20, 4)]))
    ]
    found = matched_by_round(joined(*parts), "off", SLO)
    # Off gives 100 tokens/s at 50 a user; on gives 100 at 100 a user.
    assert found[ON, "closed:2"].estimate.mean == pytest.approx(2.0)
    assert found[ON, "closed:2"].estimate.half_width == pytest.approx(0, abs=1e-6)
    assert found[OFF, "closed:2"].estimate.mean == 1


def test_rounds_that_differ_widen_it_and_one_beyond_the_arm_is_left_out():
    off = [runs_of("off", round_, (2, ms, 2)) for round_, ms in ((1, 20), (2, 20), (3, 2))]
    on = [runs_of("on", round_, (1, 10, 1), (4, ms, 4)) for round_, ms in
          ((1, 20), (2, 25), (3, 20))]  # fmt: skip
    found = matched_by_round(joined(*off, *on), "off", SLO)[ON, "closed:2"]
    # Both 100 tokens/s at the light end, which is 100 a user against 50; round 3 is at 1000.
    assert found.estimate.mean == pytest.approx(2.0)
    assert (found.spanned, found.rounds) == (2, 3)
    on[1] = runs_of("on", 2, (1, 20, 1), (4, 20, 4))
    found = matched_by_round(joined(*off, *on), "off", SLO)[ON, "closed:2"]
    assert found.estimate.mean == pytest.approx((2.0 + 1.0) / 2)
    assert found.estimate.half_width == pytest.approx(12.706 * 0.5)


def test_one_round_has_a_ratio_and_no_interval():
    one = joined(runs_of("off", 1, (2, 20, 2)), runs_of("on", 1, (1, 10, 1), (4, 20, 4)))
    assert math.isnan(matched_by_round(one, "off", SLO)[ON, "closed:2"].estimate.half_width)
    apart = tuple(replace(run, context_tokens=512) if run.arm == "on" else run for run in one.runs)
    found = matched_by_round(one._replace(runs=apart), "off", SLO)
    assert {key for key, _ in found} == {OFF}  # prompts of another length are no match
