"""Which new drafters can be tried beside a model's own, and how that is asked for."""

from __future__ import annotations

import pytest

from deployments.canary import canary_model, canary_name, parse_canary
from deployments.errors import ConfigError
from deployments.schema import parse_settings

DRAFTER = {"source": "models/demo-drafter", "replicas": 3, "calibration": "some.parquet"}


def model(drafter=DRAFTER, placement="split"):
    target = {"source": "models/demo-target"}
    document = {"id": "demo", "target": target, "placement": placement, "drafter": drafter}
    return parse_settings({"models": [document]}).models[0]


def test_the_new_drafter_takes_the_place_of_the_serving_one():
    tried = canary_model(model(), parse_canary({"drafter": "models/demo-drafter"}))
    assert (tried.drafter.source, tried.drafter.replicas) == ("models/demo-drafter", 3)
    assert tried.drafter.calibration is None  # the serving one's, measured on other weights
    assert tried.target == model().target
    assert canary_name(tried).startswith("demo-drafter:")


def test_replicas_are_as_many_as_asked_for():
    spec = parse_canary({"drafter": "models/demo-drafter", "replicas": 1})
    assert canary_model(model(), spec).drafter.replicas == 1


def test_a_drafter_that_the_running_targets_cannot_serve_is_refused():
    lookup = model({"ngram": {"block_size": 7}})
    with pytest.raises(ConfigError, match="restart them with it"):
        canary_model(lookup, parse_canary({"drafter": "models/demo-drafter"}))


def test_a_model_without_drafter_replicas_is_refused():
    colocated = model({"source": "models/demo-drafter"}, placement="colocated")
    with pytest.raises(ConfigError, match="placement split"):
        canary_model(colocated, parse_canary({"drafter": "models/demo-drafter"}))


def test_a_checkpoint_that_is_none_is_refused_by_name():
    with pytest.raises(ConfigError, match="no/such"):
        canary_model(model(), parse_canary({"drafter": "/no/such"}))


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "drafter"),
        ({"drafter": "x", "share": 0}, "share"),
        ({"drafter": "x", "share": 1.5}, "share"),
        ({"drafter": "x", "patience_s": -1}, "patience_s"),
        ({"drafter": "x", "shrae": 0.1}, "shrae"),
        ([], "dictionary"),
    ],
)
def test_a_request_that_cannot_be_is_refused_by_field(body, named):
    with pytest.raises(ConfigError, match=named):
        parse_canary(body)
