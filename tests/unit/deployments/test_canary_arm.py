"""What a target's worker does of a canary's orders, and what it says of one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from autoscale.controls import Controls
from autoscale.policies import Off
from deployments.engine import runner as runner_module
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.canary_arm import CanaryOrder
from deployments.engine.runner import DraftingRunner
from drafters.sources import RemoteDraftSource

GAMMA, SECRET = 3, "s"
ORDER = {
    "name": "new:v2",
    "address": "tcp://127.0.0.1:9",
    "key": None,
    "share": 1.0,
    "is_promoted": False,
    "calibrations": {},
}


def remote_source(*_: Any) -> RemoteDraftSource:
    return RemoteDraftSource(deadline_s=0.05, secret=SECRET)


class Engine:
    """Below our runner: an engine without one."""

    def __init__(self, vllm_config: Any, device: Any) -> None:
        raise AssertionError("no engine is needed")


class Runner(DraftingRunner, Engine):
    def __init__(self) -> None:
        self.vllm_config = self.device = None
        self.controls = Controls()
        self.settings = SimpleNamespace(block_size=GAMMA, deadline_s=0.05)
        self.adapter = SpeculationAdapter(
            remote_source(),
            Off(),
            target_id="t",
            block_size=GAMMA,
            block_tokens=32,
            num_context_tokens=64,
            max_model_len=128,
            vocab_size=100,
        )

    def follow(self, **changes: Any) -> None:
        self.follow_canary(CanaryOrder.from_plain(ORDER | changes), SECRET)


@pytest.fixture
def runner(monkeypatch):
    monkeypatch.setattr(runner_module, "make_source", remote_source)
    runner = Runner()
    yield runner
    runner.follow_canary(None, SECRET)
    runner.adapter.source.close()


def test_a_worker_says_whether_its_canary_is_promoted_whatever_the_share(runner):
    runner.follow()
    assert runner.adapter.canary.snapshot()["is_promoted"] is False
    runner.follow(is_promoted=True)
    said = runner.adapter.canary.snapshot()
    assert (said["name"], said["share"], said["is_promoted"]) == ("new:v2", 1.0, True)


def test_without_an_order_the_trial_is_over(runner):
    serving = runner.adapter.source
    runner.follow()
    runner.follow_canary(None, SECRET)
    assert (runner.adapter.source, runner.adapter.canary) == (serving, None)


@pytest.mark.parametrize(
    "wrong", [{"share": 7.0}, {"is_promoted": 1}, {"unknown": 0}], ids=lambda one: next(iter(one))
)
def test_an_order_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match="canary"):
        CanaryOrder.from_plain(ORDER | wrong)
