"""What a runner does of controls that change between steps."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from autoscale.calibration import Calibration
from autoscale.calibration_messages import calibrations_to_plain
from autoscale.controls import Controls
from autoscale.policies import Off
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.runner import DraftingRunner
from profiles.calibration_key import CALIBRATION_KEYS

GAMMA = 3
KEY = CALIBRATION_KEYS[0]
START, LEARNED = (Calibration((t,) * GAMMA, version) for t, version in ((2.0, 1), (0.5, 7)))


class Engine:
    """Below our runner: an engine without one."""

    def __init__(self, vllm_config: Any, device: Any) -> None:
        raise AssertionError("no engine is needed")


class Runner(DraftingRunner, Engine):
    def __init__(self) -> None:
        self.settings = SimpleNamespace(
            calibrations=calibrations_to_plain({KEY: START}),
            policy={"kind": "causal"},
            deadline_s=0.05,
        )
        self.controls = Controls()
        self.set_to: list[dict[str, Any]] = []
        self.adapter = SpeculationAdapter(
            SimpleNamespace(),  # asked for nothing
            Off(),
            target_id="t",
            block_size=GAMMA,
            block_tokens=32,
            num_context_tokens=64,
            max_model_len=128,
            vocab_size=100,
        )
        self.adapter.calibration.replica.adopt({KEY: START})

    def set_policy(self, settings: dict[str, Any]) -> None:
        self.set_to.append(settings)

    @property
    def calibration(self) -> Calibration:
        return self.adapter.calibration.replica.calibrations[KEY]


def test_without_a_plan_a_replica_has_what_it_started_with_and_its_policy():
    runner = Runner()
    runner.adapter.calibration.replica.adopt({KEY: LEARNED})
    runner.set_controls(Controls(max_draft_tokens=2))
    assert runner.calibration == LEARNED
    runner.set_controls(Controls(plan=False))
    assert (runner.calibration, runner.set_to[-1]) == (START, {"kind": "causal"})
    runner.adapter.calibration.replica.adopt({KEY: LEARNED})  # of a plan again
    runner.set_controls(Controls(plan=True))
    assert runner.calibration == LEARNED
