import pytest

from profiles.load_records import load_load_records, save_load_records
from profiles.provenance import ProfileError
from tests.unit.profiles.load_rows import request_row, run_row


def test_rows_come_back_as_they_were(tmp_path):
    runs, requests = [run_row("a")], [request_row("a"), request_row("a", number=1, gap_us=())]
    save_load_records(tmp_path, runs, requests, {"hardware": "two cores"})
    records = load_load_records(tmp_path)
    assert records.runs == tuple(runs)
    assert records.requests == tuple(requests)
    assert records.metadata["hardware"] == "two cores"


def test_requests_of_a_run_that_never_ended_are_dropped(tmp_path):
    requests = [request_row("a"), request_row("b")]
    save_load_records(tmp_path, [run_row("a")], requests, {})
    records = load_load_records(tmp_path)
    assert [row.run_id for row in records.requests] == ["a"]
    assert records.requests_of(records.runs[0]) == (requests[0],)


def test_the_files_are_told_apart(tmp_path):
    save_load_records(tmp_path, [run_row()], [request_row()], {})
    (tmp_path / "runs.parquet").write_bytes((tmp_path / "requests.parquet").read_bytes())
    with pytest.raises(ProfileError, match="kind is 'dspark-load-requests'"):
        load_load_records(tmp_path)


def test_a_directory_without_results_is_refused_by_name(tmp_path):
    with pytest.raises(ProfileError, match=r"runs\.parquet: there is no such file"):
        load_load_records(tmp_path)
