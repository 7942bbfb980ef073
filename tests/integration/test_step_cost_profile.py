"""Step costs measured on a real engine, loaded by the next, refused by another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoscale.step_cost_fit import costs_of, with_fits
from profiles.provenance import ProvenanceError
from profiles.step_cost import DRAFT, PREFILL, VERIFY, load_step_cost, save_step_cost
from tests.integration.engines import make_engine, runner_of, settings

SMALL = {
    "n_requests": (1, 4),
    "draft_tokens": (0, 3, 7),
    "context_tokens": (32, 128),
    "prefill_tokens": (8, 32),
    "steps": 3,
    "rounds": 1,
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Any:
    """The path of a small profile of the demo, and the profile."""
    from deployments.engine.profile import Grid, measure_profile

    path = tmp_path_factory.mktemp("profile") / "step-cost.parquet"
    profile = measure_profile(settings(), Grid(**SMALL), lambda _: None)
    save_step_cost(path, with_fits(profile))
    return path, profile


def test_every_phase_and_size_is_measured(measured):
    _, profile = measured
    sizes = {(row.n_tokens, row.n_requests) for row in profile.of(VERIFY)}
    assert sizes == {(1, 1), (4, 1), (8, 1), (4, 4), (16, 4), (32, 4)}
    assert {(row.n_tokens, row.context_tokens) for row in profile.of(PREFILL)} == {
        (8, 0),
        (32, 0),
        (8, 32),
        (32, 32),
        (8, 128),
        (32, 128),
    }
    assert {row.n_requests for row in profile.of(DRAFT)} == {1, 4}
    assert all(row.num_steps == 3 for row in profile.of(VERIFY))
    assert all(32 < row.context_tokens < 200 for row in profile.of(VERIFY))


def test_the_next_engine_goes_by_it_and_another_model_is_refused(measured):
    path, profile = measured
    target = {"step_cost": str(path)}
    engine = make_engine("colocated", target=target)
    assert runner_of(engine)._step_cost == costs_of(profile)[0]
    foreign = replace(profile.provenance, model_revision="another", dtype="bfloat16")
    save_step_cost(path, replace(profile, provenance=foreign))
    with pytest.raises(ProvenanceError, match=r"model_revision is 'another'.*dtype is 'bfloat16'"):
        make_engine("colocated", target=target)
    overridden = target | {"step_cost_override": ["model_revision", "dtype"]}
    assert runner_of(make_engine("colocated", target=overridden))._step_cost is not None
    assert load_step_cost(path).provenance == foreign
