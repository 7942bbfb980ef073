import pytest

from profiles.load_records import add_load_run, load_load_records, merge_load_requests
from profiles.provenance import ProfileError
from tests.unit.profiles.load_rows import request_row, run_row

RUNS = [run_row("a"), run_row("b")]
OF_A = [request_row("a"), request_row("a", number=1, gap_us=(), chunk_tokens=())]
OF_B = [request_row("b")]


@pytest.fixture
def directory(tmp_path):
    """Two runs, as they are while a third is being made."""
    add_load_run(tmp_path, RUNS[:1], OF_A, {"hardware": "two cores"})
    add_load_run(tmp_path, RUNS, OF_B, {"hardware": "two cores"})
    return tmp_path


def names(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_rows_come_back_as_they_were(directory):
    records = load_load_records(directory)
    assert records.runs == tuple(RUNS)
    assert records.requests == (*OF_A, *OF_B)
    assert records.metadata["hardware"] == "two cores"
    assert records.requests_of(RUNS[1]) == tuple(OF_B)


def test_merged_they_are_the_same_in_two_files(directory):
    before = load_load_records(directory)
    merge_load_requests(directory)
    assert names(directory) == ["requests.parquet", "runs.parquet"]
    assert load_load_records(directory) == before
    merge_load_requests(directory)
    assert load_load_records(directory) == before


def test_runs_are_added_to_merged_ones(directory):
    merge_load_requests(directory)
    add_load_run(directory, [*RUNS, run_row("c")], [request_row("c")], {})
    assert [r.run_id for r in load_load_records(directory).requests] == ["a", "a", "b", "c"]


def test_a_merge_that_was_interrupted_counts_nothing_twice(directory):
    part = (directory / "requests-1.parquet").read_bytes()
    merge_load_requests(directory)
    (directory / "requests-1.parquet").write_bytes(part)
    assert load_load_records(directory).requests == (*OF_A, *OF_B)


def test_requests_of_a_run_that_never_ended_are_dropped(directory):
    written = (directory / "runs.parquet").read_bytes()
    add_load_run(directory, [*RUNS, run_row("c")], [request_row("c")], {})
    (directory / "runs.parquet").write_bytes(written)
    assert load_load_records(directory).requests == (*OF_A, *OF_B)
    merge_load_requests(directory)
    assert load_load_records(directory).requests == (*OF_A, *OF_B)


def test_the_files_are_told_apart(directory):
    path = directory / "requests-1.parquet"
    (directory / "runs.parquet").write_bytes(path.read_bytes())
    with pytest.raises(ProfileError, match="kind is 'dspark-load-requests'"):
        load_load_records(directory)


def test_a_directory_without_results_is_refused_by_name(tmp_path):
    with pytest.raises(ProfileError, match=r"runs\.parquet: there is no such file"):
        load_load_records(tmp_path)
