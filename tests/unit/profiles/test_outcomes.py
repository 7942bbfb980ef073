"""Outcomes of drafts on disk: what is written is read, what cannot be is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey, calibration_key
from profiles.outcomes import Outcomes, load_outcomes, save_outcomes
from profiles.provenance import DraftingPair, ProfileError

PAIR = DraftingPair("demo", "a1", "demo-drafter", "b2")
OUTCOMES = Outcomes(
    prompt_ids=("p1", "p1", "p2"),
    domains=("math", "math", "chat"),
    verification_modes=("greedy", "greedy", "q"),
    sampling_temperatures=np.array([0.0, 0.0, 0.75]),
    confidences=np.array([[0.5, 0.25], [1.0, 0.0], [0.75, 0.125]]),
    num_admitted=np.array([2, 1, 2]),
    num_accepted=np.array([1, 0, 2]),
)


@pytest.fixture
def path(tmp_path):
    save_outcomes(tmp_path / "outcomes.parquet", OUTCOMES, PAIR)
    return tmp_path / "outcomes.parquet"


def same(a: Outcomes, b: Outcomes) -> bool:
    return all(
        np.array_equal(getattr(a, column), getattr(b, column)) for column in Outcomes.__slots__
    )


def test_what_is_saved_is_loaded(path):
    outcomes, pair, num_candidates = load_outcomes(path)
    assert same(outcomes, OUTCOMES)
    assert pair == PAIR
    assert num_candidates is None


def test_the_columns_of_the_file(path):
    assert {field.name: str(field.type) for field in pq.read_schema(path)} == {
        "prompt_id": "string",
        "domain": "string",
        "verification_mode": "string",
        "sampling_temperature": "float",
        "confidences": "fixed_size_list<element: float>[2]",
        "num_admitted": "int32",
        "num_accepted": "int32",
    }


def test_no_drafts_at_all_are_outcomes_too(tmp_path):
    none = OUTCOMES.select(np.zeros(3, dtype=bool))
    save_outcomes(tmp_path / "none.parquet", none, PAIR)
    outcomes, *_ = load_outcomes(tmp_path / "none.parquet")
    assert (len(outcomes), outcomes.block_size) == (0, 2)


def test_selecting_keeps_every_column_in_step():
    chosen = OUTCOMES.select(np.array([False, True, True]))
    assert chosen.prompt_ids == ("p1", "p2")
    assert chosen.num_admitted.tolist() == [1, 2]
    assert chosen.confidences.tolist() == [[1.0, 0.0], [0.75, 0.125]]


@pytest.mark.parametrize(
    ("mode", "temperature", "expected"),
    [
        ("greedy", 0.0, "greedy/0"),
        ("q", 0.4, "q/0-0.4"),
        ("q", 0.41, "q/0.4-0.8"),
        ("one-hot", 1.0, "one-hot/0.8-1.2"),
        ("q", 3.0, "q/1.2-"),
    ],
)
def test_the_key_of_a_request(mode, temperature, expected):
    assert str(calibration_key(mode, temperature)) == expected
    assert calibration_key(mode, temperature) in CALIBRATION_KEYS


def test_keys_are_per_draft():
    greedy, q = CalibrationKey("greedy", "0"), CalibrationKey("q", "0.4-0.8")
    assert OUTCOMES.keys() == [greedy, greedy, q]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("num_admitted", [3, 1, 2], "num_admitted of row 0 is not in 0 to gamma"),
        ("num_accepted", [1, 0, 3], "num_accepted of row 2 is not in 0 to num_admitted"),
        ("num_accepted", [1, -1, 2], "num_accepted of row 1"),
        ("confidences", [[0.5, 0.2], [np.nan, 0], [0, 0]], "confidences of row 1 is not in 0 to 1"),
        ("confidences", [0.5, 0.2, 0.1], r"not \[N, gamma\]"),
        ("sampling_temperatures", [0, -1, 0], "sampling_temperature of row 1"),
        ("num_accepted", [1, 0], "num_accepted has not as many rows as confidences, 3"),
    ],
)
def test_a_column_that_cannot_be_is_named(column, value, message):
    with pytest.raises(ValueError, match=message):
        replace(OUTCOMES, **{column: np.array(value)})


def test_an_unknown_verification_mode_is_refused():
    with pytest.raises(ValueError, match="verification_mode 'dense' is not in"):
        replace(OUTCOMES, verification_modes=("greedy", "dense", "q"))


def test_a_file_with_an_impossible_value_is_refused_by_name(path):
    table = pq.read_table(path)
    index = table.column_names.index("num_accepted")
    broken = table.set_column(index, "num_accepted", pa.array([9, 0, 2], pa.int32()))
    pq.write_table(broken, path)
    with pytest.raises(ProfileError, match=r"outcomes\.parquet: num_accepted of row 0"):
        load_outcomes(path)
