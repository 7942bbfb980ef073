"""What every worker of ours does, on a processor or on CUDA: only the base classes differ."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm.utils.torch_utils import set_random_seed
from vllm.v1.worker.gpu_input_batch import InputBatch

from autoscale.calibration_messages import calibrations_from_plain, report_to_plain
from autoscale.controls import Controls
from autoscale.step_cost import StepCostTable
from autoscale.step_cost_fit import costs_of
from deployments.engine.compat import check_engine_hooks
from deployments.engine.provenance import worker_provenance
from deployments.engine.ranks import Follower
from deployments.engine.said import take_up_in_worker
from deployments.engine.settings import WorkerSettings
from deployments.engine.step_time import measure_step_cost
from drafters.sources import RemoteDraftSource
from profiles.step_cost import EngineProvenance, load_step_cost

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
        super().init_device()  # type: ignore[misc]

    def compile_or_warm_up_model(self) -> Any:
        times = super().compile_or_warm_up_model()  # type: ignore[misc]
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        runner.start_drafting(*self._costs(runner))
        # As vLLM's own part ends: nothing measured may have moved the generators.
        set_random_seed(self.model_config.seed)  # type: ignore[attr-defined]
        return times

    def _costs(self, runner: Any) -> tuple[StepCostTable, dict[int, float]]:
        """Seconds of a step, and of a draft by requests where a profile tells.

        Raises ProfileError for a profile that cannot be used here, naming the file and the
        key.
        """
        settings: WorkerSettings = runner.settings
        if settings.step_cost is None:
            return measure_step_cost(runner), {}
        path = Path(settings.step_cost)
        return costs_of(load_step_cost(path, self._provenance(), settings.step_cost_override))

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
        return digest | {
            **asdict(adapter.stats),
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
        }

    def dspark_take_outcomes(self) -> dict[str, Any] | None:
        """What became of drafts since the last call (`report_to_plain`); None: not our part."""
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        if isinstance(runner.adapter, Follower):
            return None
        return report_to_plain(runner.adapter.calibration.replica.take_report())

    def dspark_provenance(self) -> dict[str, str]:
        """What this worker's step costs belong to: the fields of `EngineProvenance`."""
        return self._provenance().as_metadata()

    def dspark_apply_plan(
        self,
        drafter_address: str | None,
        secret: str,
        drafter_key: str | None,
        controls: dict[str, Any],
        calibrations: dict[str, Any],
    ) -> None:
        """Go by this from the next step on; no address: no drafter.

        Calibrations that cannot be are left aside, and the adapter goes on with its own.
        """
        runner: Any = self.model_runner  # type: ignore[attr-defined]
        if isinstance(runner.adapter, Follower):
            return
        source = runner.adapter.source
        if isinstance(source, RemoteDraftSource):
            source.set_address(drafter_address, secret, drafter_key)
        runner.set_controls(Controls.model_validate(controls))
        try:
            runner.adapter.calibration.replica.adopt(calibrations_from_plain(calibrations))
        except ValueError as error:
            runner.adapter.stats.refused_calibrations += 1
            log.warning("calibrations of the plan are not used: %s", error)
