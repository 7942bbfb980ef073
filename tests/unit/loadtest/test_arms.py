"""Arms of a Serve file: what drafts by our policies is measured with each of them."""

from __future__ import annotations

from loadtest.arms import Arm
from tests.unit.loadtest.test_bench_command import dspark

POLICIES = [{"kind": "causal"}, {"kind": "fixed", "k": 3}]


def test_an_attached_engine_is_one_arm_whatever_the_policies():
    models = [
        {"id": "split", "target": {}},
        {"id": "off", "target": {}, "placement": "off"},
        {"id": "theirs", "attach": "http://127.0.0.1:9"},
    ]
    arms = list(Arm.of_models(models, POLICIES))
    assert [arm.name for arm in arms] == ["split causal", "split fixed 3", "off", "theirs"]


def test_peers_need_a_target_of_ours(tmp_path, capsys):
    config = tmp_path / "attach.yaml"
    config.write_text("applications: [{args: {models: [{id: m, attach: 'http://127.0.0.1:9'}]}}]")
    where = ("--config", str(config), "--output", str(tmp_path / "out"))
    assert dspark(*where, "--peers", "vllm") != 0
    assert "which has none of its own" in capsys.readouterr().err
