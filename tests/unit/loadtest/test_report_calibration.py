import pytest

from loadtest.report.calibration import calibration_table, survivals
from profiles.load_records import LoadRecords
from tests.unit.profiles.load_rows import request_row, run_row


def records(*runs) -> LoadRecords:
    return LoadRecords(tuple(runs), (), {})


def test_runs_of_an_arm_are_one_and_positions_keep_apart():
    runs = (run_row(arm="on"), run_row(arm="on", expected_by_position=(2.0, 1.0, 0.5)))
    first, second, third = survivals(records(*runs))
    # By hand: 4 verified at each; 3.8, 2.2 and 1.0 expected; 4, 2 and 0 accepted.
    assert (first.predicted, first.accepted) == (pytest.approx(0.95), 1.0)
    assert (second.predicted, second.accepted) == (pytest.approx(0.55), 0.5)
    assert (third.position, third.num_verified, third.accepted) == (3, 4, 0.0)
    # Wilson's of 2 in 4: from 0.150 to 0.850; of 4 in 4 it begins at 0.510.
    assert second.half_width == pytest.approx(0.35, abs=1e-3)
    assert first.half_width == pytest.approx((1 - 0.51) / 2, abs=1e-3)


def test_positions_nobody_verified_and_servers_that_do_not_say_are_left_out():
    never = run_row(arm="on", admitted_by_position=(2, 0, 0))
    silent = run_row(arm="vllm", expected_by_position=())
    torn = run_row(arm="torn", admitted_by_position=())
    assert [(one.arm, one.position) for one in survivals(records(never, silent, torn))] == [
        ("on", 1)
    ]


def test_the_table_says_it_in_words():
    requests = (request_row(), request_row(number=1, status="reset"))
    found = survivals(records(run_row(arm="on"))._replace(requests=requests))
    (row, *_) = calibration_table(found).rows
    assert row == ("on, 1", "2", "0.900", "1.000 ± 0.329", "50.0%")
