"""The pair a model serves, and the calibration it may start from."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from autoscale.acceptance import acceptance_rate
from deployments.drafting_pair import drafting_pair, promised_rate, starting_calibrations
from deployments.errors import ConfigError
from deployments.preflight import check_models
from deployments.schema import parse_settings
from drafters.ngram_settings import ngram_version
from profiles.calibration import CalibrationProfile, PositionCalibration, save_calibration
from profiles.calibration_key import CALIBRATION_KEYS, CalibrationKey
from profiles.provenance import NGRAM
from profiles.reliability import Errors

KEY = CALIBRATION_KEYS[0]
GAMMA = 7


def settings(**drafter):
    drafter = {"source": "models/demo-drafter"} | drafter
    model = {"id": "m", "target": {"source": "models/demo-target"}, "drafter": drafter}
    return parse_settings({"models": [model]})


def one(**drafter):
    return settings(**drafter).models[0]


def profile(pair, block_size=GAMMA):
    unknown = Errors(0, float("nan"), float("nan"), float("nan"))
    positions = (PositionCalibration(1.5, 100, unknown, unknown),) * block_size
    return CalibrationProfile(pair, 4, date(2026, 1, 2), {KEY: positions})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "calibration.parquet"
    save_calibration(path, profile(drafting_pair(one())))
    return path


@pytest.mark.parametrize(("key", "is_refused"), [(KEY, False), (("q", "0.8-1.2"), True)])
def test_sampled_drafts_from_other_numbers_of_tokens_survive_otherwise(key, is_refused, tmp_path):
    path = tmp_path / "calibration.parquet"
    found = profile(drafting_pair(one()))
    entries = {CalibrationKey(*key): found.entries[KEY]}
    save_calibration(path, replace(found, entries=entries, num_candidates=64))
    assert starting_calibrations(one(calibration=str(path), num_candidates=64), GAMMA)
    if not is_refused:
        assert starting_calibrations(one(calibration=str(path)), GAMMA)
        return
    with pytest.raises(ConfigError, match=r"the 64 likeliest tokens, .*num_candidates is 32"):
        starting_calibrations(one(calibration=str(path)), GAMMA)


def test_lookup_is_the_drafter_that_an_evaluation_of_it_names():
    pair = drafting_pair(one(source=None, ngram={}))
    assert (pair.drafter_id, pair.drafter_version) == (NGRAM, ngram_version(block_size=7))
    fitted = drafting_pair(one(source=None, ngram={"confidence_by_match": [0.1, 0.2, 0.3, 0.4]}))
    assert fitted.drafter_version != pair.drafter_version


def test_a_pair_is_named_by_its_weights():
    pair = drafting_pair(one())
    assert (pair.model_id, pair.drafter_id) == ("demo-target", "demo-drafter")
    assert pair.model_revision != pair.drafter_version
    assert {len(pair.model_revision), len(pair.drafter_version)} == {12}


def test_a_commit_names_a_checkpoint_on_the_hub_without_fetching_it():
    commit = "0123456789abcdef" * 2 + "01234567"
    model = one(source="some/drafter", revision=commit)
    assert drafting_pair(model).drafter_version == commit


def test_drafters_without_a_checkpoint_are_told_apart_by_their_settings():
    versions = {
        drafting_pair(one(source=None, random={"target_layer_ids": [1], "seed": s})).drafter_version
        for s in (0, 0, 1)
    }
    assert len(versions) == 2


def test_a_profile_of_the_pair_is_where_serving_starts(file):
    found = starting_calibrations(one(calibration=str(file)), GAMMA)
    assert found == {str(KEY): {"version": 4, "temperatures": [1.5] * GAMMA}}
    assert starting_calibrations(one(), GAMMA) == {}


def test_directories_may_be_called_anything(file, tmp_path):
    shutil.copytree("models/demo-drafter", tmp_path / "renamed")
    model = one(source=str(tmp_path / "renamed"), calibration=str(file))
    assert starting_calibrations(model, GAMMA)


@pytest.mark.parametrize("key", ["model_revision", "drafter_version"])
def test_a_profile_of_another_pair_is_refused_with_the_differing_key(file, key):
    save_calibration(file, profile(replace(drafting_pair(one()), **{key: "f" * 12})))
    with pytest.raises(ConfigError, match=rf"drafter\.calibration: .*{key} is 'ffffffffffff'"):
        check_models(settings(calibration=str(file)))


def test_a_profile_of_another_block_size_is_refused(file):
    save_calibration(file, profile(drafting_pair(one()), block_size=5))
    with pytest.raises(ConfigError, match=r"5 positions for greedy/0, .* block_size is 7"):
        check_models(settings(calibration=str(file)))


def test_a_file_that_is_no_profile_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"drafter\.calibration: no file 'nowhere'"):
        check_models(settings(calibration="nowhere"))
    Path(tmp_path / "x").write_text("text")
    with pytest.raises(ConfigError, match=r"drafter\.calibration: .*Parquet"):
        check_models(settings(calibration=str(tmp_path / "x")))


def test_a_promise_that_no_drafter_can_keep_is_refused():
    assert promised_rate(one(source=None, ngram={}), GAMMA) is None
    assert promised_rate(one(acceptance_length=8), GAMMA) == pytest.approx(1)
    with pytest.raises(ConfigError, match=r"drafter\.acceptance_length 9\.0 is not in 1 to 8"):
        check_models(settings(acceptance_length=9))


def test_what_training_measured_is_promised_where_nothing_else_is(tmp_path):
    drafter = tmp_path / "drafter"
    shutil.copytree("models/demo-drafter", drafter)
    record = {"held_out": {"a": {"acceptance_length": 2.0}, "b": {"acceptance_length": 4.0}}}
    (drafter / "training.json").write_text(json.dumps(record))
    rate = promised_rate(one(source=str(drafter)), GAMMA)
    assert rate == pytest.approx(acceptance_rate(3.0, GAMMA))
    (drafter / "training.json").write_text("[1, 2]")  # a file of that name, not of ours
    assert promised_rate(one(source=str(drafter)), GAMMA) is None


def test_weights_that_are_not_the_recorded_ones_are_refused_before_anything_starts(tmp_path):
    drafter = tmp_path / "drafter"
    shutil.copytree("models/demo-drafter", drafter)
    check_models(settings(source=str(drafter)))
    weights = drafter / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1  # in the middle of a tensor: it loads as before
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match=r"drafter\.source: .*not the weights whose SHA-256"):
        check_models(settings(source=str(drafter)))
    weights.unlink()
    with pytest.raises(ConfigError, match=r"drafter\.source: .*not there"):
        check_models(settings(source=str(drafter)))
