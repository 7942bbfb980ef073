"""The settings of attached models: what they are, and what is refused with how to mend it."""

import pytest

from deployments.errors import ConfigError
from deployments.placement import logical_cpus
from deployments.schema import AttachedModelSpec, AttachSpec, ModelSpec, parse_settings


def parsed(**entry):
    (model,) = parse_settings({"models": [{"id": "m"} | entry]}).models
    return model


def test_an_address_alone_will_do():
    model = parsed(attach="http://host:8000/v1/")
    assert model.attach == AttachSpec(url=("http://host:8000",))
    assert (model.placement, model.their_name) == ("attached", "m")


def test_several_engines_serve_one_model_under_their_name():
    model = parsed(attach={"url": ["http://a:1", "http://b:1"], "model": "theirs"})
    assert model.attach.url == ("http://a:1", "http://b:1")
    assert model.their_name == "theirs"


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"attach": "host:8000"}, r"attach\.url: .*no address of an engine; give http://HOST"),
        ({"attach": "http://me:pw@host"}, "no user or password; use api_key_env"),
        ({"attach": "http://host?x=1"}, "give the address alone"),
        ({"attach": []}, r"attach\.url: "),
        ({"attach": ["http://a", "http://a/v1"]}, "the same engine twice"),
        ({"attach": {"url": "http://a", "api_key_env": "$KEY"}}, r"attach\.api_key_env: "),
        ({"attach": {"url": "http://a", "replicas": 2}}, r"attach\.replicas: Extra inputs"),
        ({"attach": "http://a", "target": {}}, "target is not for an attached engine.*remove"),
        ({"attach": "http://a", "drafter": {}}, "drafts for itself or not at all"),
        ({"attach": "http://a", "policy": {}}, "our scheduler is not in the engine's worker"),
        ({"attach": "http://a", "placement": "split"}, "placement is not for an attached"),
        ({"attach": "http://a", "native": {}}, "set on the engine's own command"),
    ],
)
def test_a_wrong_setting_is_named(entry, message):
    with pytest.raises(ConfigError, match=message):
        parsed(**entry)


def test_launched_and_attached_models_stand_side_by_side():
    launched = {"id": "ours", "target": {"source": "x", "num_cpus": 1}, "placement": "off"}
    attach = {"url": ["http://a", "http://b"], "num_cpus": 0.25}
    settings = parse_settings({"models": [launched, {"id": "m", "attach": attach}]})
    assert [type(model) for model in settings.models] == [ModelSpec, AttachedModelSpec]
    assert [model.id for model in settings.launched] == ["ours"]
    assert [model.id for model in settings.attached] == ["m"]
    assert logical_cpus(settings) == {"Ingress": 0.1, "Target:ours": 2.0, "Target:m": 0.5}


def test_ids_differ_however_a_model_is_served():
    with pytest.raises(ConfigError, match="model ids must differ"):
        parse_settings({"models": [{"id": "m", "attach": f"http://{host}"} for host in "ab"]})
