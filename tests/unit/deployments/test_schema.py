import copy

import pytest

from autoscale.service_class import ServiceClass
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
        (changed(drafter={}), "one of source .*, random .* and ngram"),
        (changed(drafter={"source": "x", "ngram": {}}), "one of source .*, random .* and ngram"),
        (changed(drafter={"ngram": {}, "revision": "0" * 40}), "belongs to a source on the hub"),
        (changed(drafter={"ngram": {"min_match": 5}}), "max_match 4 is less than min_match 5"),
        (changed(drafter={"ngram": {"confidence_by_match": [0.5]}}), "1 probabilities; .* are 4"),
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


CUDA = {"source": "x", "device": "cuda"}
DRAFTER = {"source": "y", "device": "cuda"}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"placement": "native", "drafter": None}, "own drafting on GPUs; set target.device"),
        (
            {"placement": "native", "target": CUDA, "policy": {"kind": "causal"}},
            "native vLLM decides what to verify; remove policy",
        ),
        (
            {
                "placement": "native",
                "target": CUDA,
                "drafter": {"device": "cuda", "random": {"target_layer_ids": [1]}},
            },
            "loads a checkpoint; give drafter.source",
        ),
        (
            {"placement": "colocated", "target": CUDA, "drafter": {"source": "y"}},
            "on the target's device; set drafter.device: cuda",
        ),
        (
            {
                "placement": "colocated",
                "drafter": {"source": "y", "encrypted": True, "replicas": 2},
            },
            "colocated has no drafter replicas; remove drafter.encrypted, drafter.replicas",
        ),
        ({"target": CUDA, "drafter": DRAFTER}, "set drafter.num_gpus, 1 or less"),
        ({"target": CUDA | {"tensor_parallel": 3, "nodes": 2}}, "evenly over 2 nodes"),
        ({"target": {"source": "x", "gpu_memory_gib": 24}}, "needs device: cuda"),
        (
            {"target": CUDA | {"gpus_per_rank": 0.5, "tensor_parallel": 2}},
            "cannot share a GPU; set gpus_per_rank: 1",
        ),
        ({"target": CUDA | {"revision": "main"}}, r"models\.0\.target\.revision"),
        ({"target": CUDA | {"resources": {"GPU": 1}}}, "GPU is counted already"),
        ({"target": CUDA | {"resources": {"spark": 0}}}, r"target\.resources\.spark"),
        ({"drafter": {"source": "y", "num_gpus": 1}}, "num_gpus needs device: cuda"),
        (
            {
                "placement": "native",
                "target": CUDA,
                "drafter": DRAFTER | {"calibration": "c.parquet"},
            },
            "native.adaptive_verification is true; set that",
        ),
    ],
)
def test_devices_and_placements_that_do_not_go_together_are_refused(model, message):
    with pytest.raises(ConfigError, match=message):
        parse_settings(changed(**model))


def test_native_needs_no_drafter_where_the_target_carries_it():
    (model,) = parse_settings(changed(placement="native", target=CUDA, drafter=None)).models
    assert (model.placement, model.drafter) == ("native", None)
    assert not model.native.adaptive_verification


def test_promises_are_classes_by_name():
    settings = parse_settings(
        changed() | {"classes": [{"name": "latency", "ttft_ms": 500, "tpot_ms": 40}]}
    )
    assert settings.promises == {"latency": ServiceClass("latency", 0.5, 0.04, 0.95)}


def test_two_classes_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="names of classes must differ"):
        parse_settings(changed() | {"classes": [{"name": "a"}, {"name": "a"}]})
