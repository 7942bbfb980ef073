"""Calibration profiles on disk, and who may use them."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date

import pyarrow.parquet as pq
import pytest

from profiles.calibration import (
    CALIBRATION_SCHEMA,
    CalibrationProfile,
    PositionCalibration,
    load_calibration,
    save_calibration,
)
from profiles.calibration_key import CalibrationKey
from profiles.fingerprint import checkpoint_fingerprint
from profiles.outcomes import load_outcomes
from profiles.provenance import DraftingPair, ProfileError, ProvenanceError
from profiles.reliability import Errors

PAIR = DraftingPair("demo", "a1", "demo-drafter", "b2")
GREEDY, SAMPLED = CalibrationKey("greedy", "0"), CalibrationKey("q", "0.4-0.8")


def position(temperature: float, before_ece: float, after_ece: float) -> PositionCalibration:
    before, after = Errors(50, before_ece, 0.8, 0.2), Errors(50, after_ece, 0.81, 0.15)
    return PositionCalibration(temperature, 200, before, after)


PROFILE = CalibrationProfile(
    pair=PAIR,
    version=3,
    measured_on=date(2026, 7, 1),
    entries={
        GREEDY: (position(1.5, 0.06, 0.01), position(0.75, 0.04, 0.02)),
        SAMPLED: (position(2.0, 0.05, 0.03), position(1.25, 0.09, 0.02)),
    },
)


@pytest.fixture
def path(tmp_path):
    save_calibration(tmp_path / "calibration.parquet", PROFILE)
    return tmp_path / "calibration.parquet"


def test_what_is_saved_is_loaded(path):
    assert load_calibration(path) == PROFILE
    assert load_calibration(path, PAIR) == PROFILE


def test_temperatures_are_looked_up_by_key(path):
    profile = load_calibration(path)
    assert profile.temperatures(SAMPLED) == (2.0, 1.25)
    assert profile.temperatures(CalibrationKey("one-hot", "0.4-0.8")) is None


def test_the_metadata_says_where_it_comes_from(path):
    metadata = {k.decode(): v.decode() for k, v in pq.read_schema(path).metadata.items()}
    metadata.pop("ARROW:schema", None)
    assert metadata == {
        "kind": "dspark-calibration",
        "format_version": "1",
        "model_id": "demo",
        "model_revision": "a1",
        "drafter_id": "demo-drafter",
        "drafter_version": "b2",
        "version": "3",
        "measured_on": "2026-07-01",
        "verification_modes": "greedy,q",
        "temperature_bins": "0,0.4-0.8",
        "num_labels": "800",
        "held_out_ece_before": "0.060000",
        "held_out_ece_after": "0.020000",
    }


def test_it_says_from_how_many_tokens_drafts_were_drawn(tmp_path, path):
    assert load_calibration(path).num_candidates is None
    drawn = replace(PROFILE, num_candidates=64)
    save_calibration(tmp_path / "d.parquet", drawn)
    assert load_calibration(tmp_path / "d.parquet") == drawn


def test_undefined_errors_survive(tmp_path):
    nothing = Errors(0, math.nan, math.nan, math.nan)
    entries = {GREEDY: (PositionCalibration(1.0, 0, nothing, nothing),)}
    save_calibration(tmp_path / "c.parquet", replace(PROFILE, entries=entries))
    (loaded,) = load_calibration(tmp_path / "c.parquet").entries[GREEDY]
    assert loaded.after.num_labels == 0
    assert math.isnan(loaded.after.ece)


def test_another_drafter_is_refused_with_every_key_that_differs(path):
    elsewhere = replace(PAIR, drafter_version="b3", model_revision="a9")
    with pytest.raises(ProvenanceError) as refusal:
        load_calibration(path, elsewhere)
    message = str(refusal.value)
    assert "drafter_version is 'b2' there and 'b3' here" in message
    assert "model_revision is 'a1' there and 'a9' here" in message
    assert "model_id" not in message


def test_a_difference_is_accepted_where_its_key_is_overridden(path):
    elsewhere = replace(PAIR, drafter_version="b3")
    assert load_calibration(path, elsewhere, ["drafter_version"]) == PROFILE
    with pytest.raises(ProvenanceError, match="model_id"):
        load_calibration(path, replace(elsewhere, model_id="x"), ["drafter_version"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ProfileError, match=r"none\.parquet: there is no such file"):
        load_calibration(tmp_path / "none.parquet")


@pytest.mark.parametrize("keep", [0, 40, -30])
def test_a_file_cut_short_is_damaged(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ProfileError, match=r"calibration\.parquet cannot be read.*write it again"):
        load_calibration(path)


def test_a_flipped_bit_in_the_data_is_noticed(path):
    columns = pq.ParquetFile(path).metadata.row_group(0)
    temperatures = columns.column(CALIBRATION_SCHEMA.names.index("sts_temperature"))
    end = temperatures.dictionary_page_offset + temperatures.total_compressed_size
    data = bytearray(path.read_bytes())
    data[end - 1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ProfileError, match="is damaged or unfinished"):
        load_calibration(path)


def test_another_kind_of_profile_is_refused(path):
    with pytest.raises(ProfileError, match="kind is 'dspark-calibration', needed is 'dspark-out"):
        load_outcomes(path)


def rewrite(path, change, **metadata):
    table = change(pq.read_table(path))
    known = {k.decode(): v.decode() for k, v in table.schema.metadata.items()}
    pq.write_table(table.replace_schema_metadata(known | metadata), path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop_columns("sts_temperature"), "column sts_temperature is missing"),
        (lambda t: t.drop_columns("position").append_column("position", [[1.0] * 4]), "double"),
        (lambda t: t.slice(1), "position of greedy/0 has 2 where 1 belongs"),
        (
            lambda t: t.drop_columns("sts_temperature").append_column(
                "sts_temperature", [[1.5, -1.0, 2.0, 1.0]]
            ),
            "sts_temperature of greedy/0, position 2, is -1.0, not a positive number",
        ),
        (
            lambda t: t.drop_columns("sts_temperature").append_column(
                "sts_temperature", [[1.5, None, 2.0, 1.0]]
            ),
            "column sts_temperature has 1 empty values",
        ),
    ],
)
def test_a_field_that_cannot_be_is_named(path, change, message):
    rewrite(path, change)
    with pytest.raises(ProfileError, match=rf"calibration\.parquet: .*{message}"):
        load_calibration(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"format_version": "2"}, "format_version is '2', this program reads 1"),
        ({"measured_on": "yesterday"}, "metadata is unusable.*yesterday"),
    ],
)
def test_metadata_that_cannot_be_is_named(path, metadata, message):
    rewrite(path, lambda table: table, **metadata)
    with pytest.raises(ProfileError, match=message):
        load_calibration(path)


def test_missing_provenance_is_named(path):
    table = pq.read_table(path)
    kept = {k: v for k, v in table.schema.metadata.items() if k != b"drafter_version"}
    pq.write_table(table.replace_schema_metadata(kept), path)
    with pytest.raises(ProfileError, match="drafter_version is missing from its metadata"):
        load_calibration(path)


def test_a_reader_never_sees_half_a_file(path, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("profiles.parquet.pq.write_table", fail)
    with pytest.raises(OSError, match="no space"):
        save_calibration(path, replace(PROFILE, version=4))
    assert load_calibration(path).version == 3


def test_a_fingerprint_changes_with_weights_and_configuration(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    first = checkpoint_fingerprint(tmp_path)
    assert first == checkpoint_fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("words")
    assert first == checkpoint_fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    retrained = checkpoint_fingerprint(tmp_path)
    (tmp_path / "config.json").write_text("{ }")
    assert len({first, retrained, checkpoint_fingerprint(tmp_path)}) == 3
