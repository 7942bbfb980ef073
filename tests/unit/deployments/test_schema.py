import copy

import pytest

from deployments.errors import ConfigError
from deployments.schema import parse_settings

GOOD = {
    "models": [
        {
            "id": "m",
            "target": {"source": "models/demo-target"},
            "drafter": {"random": {"target_layer_ids": [1, 3, 5]}},
        }
    ]
}


def changed(**model):
    settings = copy.deepcopy(GOOD)
    settings["models"][0] |= model
    return settings


def test_defaults_are_split_and_causal():
    (model,) = parse_settings(GOOD).models
    assert (model.placement, model.policy) == ("split", {"kind": "causal"})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "models: Field required"),
        ({"models": []}, "models: "),
        (changed(placment="split"), r"models\.0\.placment: Extra inputs"),
        (changed(placement="remote"), r"models\.0\.placement: Input should be"),
        (changed(drafter=None), "needs a drafter"),
        (changed(drafter={}), "either source .* or random"),
        (changed(policy={"kind": "fast"}), r"models\.0\.policy: .*kind: fixed"),
        (changed(target={}), r"models\.0\.target\.source: Field required"),
        (changed(target={"source": "x", "replicas": 0}), r"models\.0\.target\.replicas"),
        ({"models": GOOD["models"] * 2}, "ids must differ"),
        ("models", "args: "),
    ],
)
def test_a_wrong_setting_is_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(settings)


def test_an_unquoted_off_in_yaml_is_off():
    (model,) = parse_settings(changed(placement=False, policy={"kind": False})).models
    assert (model.placement, model.policy) == ("off", {"kind": "off"})


def test_every_wrong_field_is_named_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_settings(changed(placement="x", policy={}))
    assert "models.0.placement" in str(caught.value)
    assert "models.0.policy" in str(caught.value)
