"""Step-cost profiles as files: what is kept, and what is refused, naming the key."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date

import pytest

from profiles.provenance import ProfileError, ProvenanceError
from profiles.roofline import H200, MACHINES, QWEN3_14B, TWO_DGX_SPARKS, modelled_profile
from profiles.step_cost import (
    DRAFT,
    MEASURED,
    MODELLED,
    VERIFY,
    EngineProvenance,
    StepCostProfile,
    StepCostRow,
    load_step_cost,
    save_step_cost,
)

HERE = EngineProvenance(
    hardware="Some CPU, 2 cores",
    model_id="demo-target",
    model_revision="0123456789ab",
    dtype="float32",
    parallelism="tp1",
    engine="vllm",
    engine_version="0.29.0",
    driver="1 thread",
)
ROWS = (
    StepCostRow(VERIFY, 1, 1, 40.5, 0.010, 0.001, 20, 0.0101),
    StepCostRow(VERIFY, 8, 1, 40.5, 0.012, 0.001, 20, 0.0118),
    StepCostRow(DRAFT, 7, 1, 40.5, 0.004, 0.0002, 20, 0.004),
)
PROFILE = StepCostProfile(HERE, MEASURED, date(2026, 11, 25), ROWS, 3, drafter_version="abc")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "step-cost.parquet"


def test_a_profile_comes_back_as_it_was(path):
    save_step_cost(path, PROFILE)
    assert load_step_cost(path, HERE) == PROFILE


@pytest.mark.parametrize("key", [field.name for field in fields(EngineProvenance)])
def test_a_foreign_profile_is_refused_naming_the_key(path, key):
    save_step_cost(path, PROFILE)
    elsewhere = replace(HERE, **{key: "another"})
    with pytest.raises(ProvenanceError, match=f"{key} is .* there and 'another' here"):
        load_step_cost(path, elsewhere)
    assert load_step_cost(path, elsewhere, [key]) == PROFILE


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("phase", "sleep"),
        ("n_tokens", 0),
        ("n_requests", 9),
        ("context_tokens", -1.0),
        ("step_cost_s", float("nan")),
        ("step_cost_s", -0.1),
        ("spread_s", float("inf")),
        ("num_steps", 0),
    ],
)
def test_rows_that_nothing_measures_are_refused_naming_the_field(path, field, value):
    save_step_cost(path, replace(PROFILE, rows=(ROWS[0], replace(ROWS[1], **{field: value}))))
    with pytest.raises(ProfileError, match=f"{field} of row 1 cannot be"):
        load_step_cost(path)


def test_a_damaged_file_is_refused(path):
    save_step_cost(path, PROFILE)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ProfileError, match="damaged or unfinished"):
        load_step_cost(path)


def test_a_modelled_profile_never_passes_for_measured(path):
    modelled = modelled_profile(H200, QWEN3_14B)
    save_step_cost(path, modelled)
    with pytest.raises(ProvenanceError, match="modelled, not measured"):
        load_step_cost(path, modelled.provenance)
    loaded = load_step_cost(path, may_be_modelled=True)
    assert (loaded.origin, loaded.assumptions) == (MODELLED, modelled.assumptions)
    assert len(modelled.assumptions) >= 5


def test_only_a_modelled_profile_has_assumptions():
    with pytest.raises(ValueError, match="assumptions"):
        replace(PROFILE, assumptions=("it will do",))
    with pytest.raises(ValueError, match="assumptions"):
        replace(modelled_profile(H200, QWEN3_14B), assumptions=())


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
def test_modelled_costs_rise_with_tokens_and_context(machine):
    verify = modelled_profile(machine, QWEN3_14B).of(VERIFY)
    cost = {(r.n_tokens, r.n_requests, r.context_tokens): r.step_cost_s for r in verify}
    assert cost[8, 1, 8192] > cost[8, 1, 0]
    assert cost[1, 1, 0] == pytest.approx(cost[8, 1, 0], rel=0.1)  # reading the weights
    assert cost[2048, 256, 0] > 2 * cost[1, 1, 0]


def test_one_token_takes_as_long_as_reading_the_weights():
    for machine in (H200, TWO_DGX_SPARKS):
        (row, *_) = modelled_profile(machine, QWEN3_14B).of(VERIFY)
        reading_s = 2 * 14.77e9 / (machine.num_ranks * machine.bytes_per_s)
        assert reading_s < row.step_cost_s < 1.6 * reading_s
