"""Arms of a Serve file: what drafts by our policies is measured with each of them."""

from __future__ import annotations

from loadtest.arms import Arm, Gpus
from loadtest.policies import PolicyChoice
from tests.unit.loadtest.test_bench_command import dspark

POLICIES = PolicyChoice.parse(["causal", "fixed:3"])


def test_an_attached_engine_is_one_arm_whatever_the_policies():
    models = [
        {"id": "split", "target": {}},
        {"id": "off", "target": {}, "placement": "off"},
        {"id": "theirs", "attach": "http://127.0.0.1:9"},
    ]
    arms = list(Arm.of_models(models, POLICIES))
    assert [arm.name for arm in arms] == ["split causal", "split fixed 3", "off", "theirs"]


def test_gpus_are_what_a_replica_of_each_pool_holds():
    cuda = {"device": "cuda", "tensor_parallel": 2}
    models = [
        {"id": "split", "target": cuda, "drafter": {"device": "cuda", "num_gpus": 0.5}},
        {"id": "off", "target": cuda | {"tensor_parallel": 1, "gpus_per_rank": 0.5}},
        {"id": "cpu", "target": {"tensor_parallel": 2}, "placement": "off"},
        {"id": "theirs", "attach": "http://127.0.0.1:9"},
    ]
    assert [arm.gpus for arm in Arm.of_models(models, PolicyChoice.parse(["causal"]))] == [
        Gpus(2.0, 0.5),
        Gpus(0.5, 0.0),
        Gpus(0.0, 0.0),
        None,
    ]


def test_peers_need_a_target_of_ours(tmp_path, capsys):
    config = tmp_path / "attach.yaml"
    config.write_text("applications: [{args: {models: [{id: m, attach: 'http://127.0.0.1:9'}]}}]")
    where = ("--config", str(config), "--output", str(tmp_path / "out"))
    assert dspark(*where, "--peers", "vllm") != 0
    assert "none has one of its own" in capsys.readouterr().err
