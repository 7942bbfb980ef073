"""What every worker of ours does, on a processor or on CUDA: only the base classes differ."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import zmq
from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_input_batch import InputBatch

from autoscale.calibration_messages import calibrations_from_plain, report_to_plain
from autoscale.causal_policy import Causal
from autoscale.controls import Controls
from autoscale.draft_experience import NO_EXPERIENCE, DraftExperience
from autoscale.fleet_step_cost import StepCostReport
from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import load_costs
from deployments.engine.canary_arm import CanaryOrder
from deployments.engine.compat import check_engine_hooks
from deployments.engine.patches import mend_allowed_tokens
from deployments.engine.provenance import worker_provenance
from deployments.engine.ranks import Follower
from deployments.engine.runner import remote_sources
from deployments.engine.said import take_up_in_worker
from deployments.engine.settings import WorkerSettings
from deployments.engine.step_time import measure_step_cost
from deployments.engine.worker_plan import WorkerPlan
from profiles.step_cost import EngineProvenance

log = logging.getLogger(__name__)


@contextmanager
def replaced(module: Any, name: str, value: object) -> Iterator[None]:
    """`module`'s global `name` is `value` for as long as the context lasts.

    vLLM's workers name their runner class inside `init_device`: the one hook of ours
    without an official door.
    """
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


class DraftingWorker:
    """Mixin for a vLLM worker whose runner is a `DraftingRunner`."""

    capability: str  # what the worker below builds on, see `deployments.engine.compat`

    def init_device(self) -> None:
        check_engine_hooks(self.capability)
        take_up_in_worker(InputBatch)
        mend_allowed_tokens(InputBatch)
        super().init_device()  # type: ignore[misc]

    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()  # type: ignore[misc]
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        runner.start_drafting(*self._costs(runner))
        # As vLLM's own part ends: nothing measured may have moved the generators.
        set_random_seed(self.model_config.seed)  # type: ignore[attr-defined]
        return times

    def _costs(self, runner: Any) -> tuple[StepCostTable, DraftExperience]:
        """Seconds of a step, and of a draft by requests where a profile tells.

        Raises ProfileError for a profile that cannot be used here, naming the file, and the key
        that differs.
        """
        settings: WorkerSettings = runner.settings
        if settings.step_cost is None:
            return measure_step_cost(runner), NO_EXPERIENCE
        path = Path(settings.step_cost)
        return load_costs(path, self._provenance(), settings.step_cost_override)

    def _provenance(self) -> EngineProvenance:
        settings: WorkerSettings = self.model_runner.settings  # type: ignore[attr-defined]
        return worker_provenance(self.vllm_config, self.device, settings.nodes)  # type: ignore[attr-defined]

    def dspark_stats(self) -> dict[str, Any]:
        """Totals of the adapter and of its draft source, and what is open now.

        Ranks that do not draft give `committed_digest` alone: it has to be rank 0's.
        """
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        adapter = runner.adapter
        digest = {"committed_digest": runner.committed.value}
        if isinstance(adapter, Follower):
            return digest
        expected = adapter.expected_by_position()
        return digest | {
            **adapter.stats.to_plain(),
            "expected_by_position": expected,
            "expected_tokens": sum(expected),
            "requests": len(runner.requests),
            "sessions": adapter.num_sessions,
            "policy": runner.policy_settings,
            "controls": runner.controls.model_dump(exclude_none=True),
            "schedule": adapter.policy.snapshot(),
            "calibrations": {
                str(key): one.version
                for key, one in adapter.calibration.replica.calibrations.items()
            },
            "source": asdict(adapter.source.stats),
            "canary": adapter.canary.snapshot() if adapter.canary else None,
        }

    def dspark_take_outcomes(self) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
        """What became of drafts since the last call (`report_to_plain`): of the serving
        drafter's and of the canary's. None: there are none here."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        adapter = runner.adapter
        if isinstance(adapter, Follower):
            return None, None
        served = report_to_plain(adapter.calibration.take_report())
        if adapter.canary is None:
            return served, None
        return served, report_to_plain(adapter.canary.calibration.take_report())

    def dspark_provenance(self) -> dict[str, str]:
        """What this worker's step costs belong to: the fields of `EngineProvenance`."""
        return self._provenance().as_metadata()

    def dspark_step_cost(self) -> dict[str, Any] | None:
        """What steps take by now (`StepCostReport.to_plain`); None: nothing is learned here."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        if isinstance(runner.adapter, Follower) or not isinstance(runner.adapter.policy, Causal):
            return None
        return runner.adapter.policy.learned().to_plain()

    def dspark_apply_plan(self, plan: dict[str, Any]) -> bool:
        """Go by a `WorkerPlan` from the next step on; without an address: no drafter.

        What of it cannot be is left aside and counted, and the adapter goes on with what it
        has. True where the fleet's step costs were taken up.
        """
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        adapter = runner.adapter
        if isinstance(adapter, Follower):
            return False
        began = time.perf_counter()
        wanted = WorkerPlan.from_plain(plan)
        advice = adapter.forecast.advice
        adapter.stats.refused_advice += advice.take(wanted.advice, wanted.advice_s)
        with self._refusing("drafter"):
            for serving in remote_sources(adapter.source)[:1]:
                serving.set_address(wanted.drafter_address, wanted.secret, wanted.drafter_key)
        with self._refusing("canary"):
            canary = None if wanted.canary is None else CanaryOrder.from_plain(wanted.canary)
            runner.follow_canary(canary, wanted.secret)
        with self._refusing("controls"):
            runner.set_controls(Controls.model_validate(wanted.controls))
        with self._refusing("calibrations"):
            adapter.calibration.replica.adopt(calibrations_from_plain(wanted.calibrations))
        adopted = False
        if wanted.step_cost is not None:
            with self._refusing("step costs"):
                learned = StepCostReport.from_plain(wanted.step_cost)
                adopted = bool(runner.adopt_step_cost(learned))
        adapter.stats.time_plan(time.perf_counter() - began)
        return adopted

    @contextmanager
    def _refusing(self, part: str) -> Iterator[None]:
        """A part of a plan that cannot be followed is counted, said, and left aside."""
        try:
            yield
        except (ValueError, zmq.ZMQError) as error:
            self.model_runner.adapter.stats.refused_plan_parts += 1  # type: ignore[attr-defined]
            log.warning("%s of the plan: not used: %s", part, error)
