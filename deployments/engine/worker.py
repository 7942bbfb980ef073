"""vLLM's CPU worker with our model runner, and the calls a target replica makes to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import vllm.v1.worker.cpu_worker as cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from autoscale.controls import Controls
from deployments.engine.compat import check_engine_hooks
from deployments.engine.ranks import Follower
from deployments.engine.runner import DSparkCPUModelRunner
from deployments.engine.seeded import SeededCPUModelRunner
from deployments.engine.step_time import measure_step_cost
from drafters.sources import RemoteDraftSource


class PlainCPUWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker with a runner of ours: here the one that survives seeded requests.

    vLLM names its runner class inside `init_device`; swapping that module's global for
    the call is the one hook without an official door.
    """

    runner_class: type[CPUModelRunner] = SeededCPUModelRunner

    def init_device(self) -> None:
        original = cpu_worker.CPUModelRunner
        cpu_worker.CPUModelRunner = self.runner_class
        try:
            super().init_device()
        finally:
            cpu_worker.CPUModelRunner = original


class DSparkCPUWorker(PlainCPUWorker):
    """Builds `DSparkCPUModelRunner`, which drafts."""

    runner_class = DSparkCPUModelRunner

    def init_device(self) -> None:
        check_engine_hooks()
        super().init_device()

    def compile_or_warm_up_model(self) -> Any:
        # Before vLLM's own part, which ends by seeding the sampler's generator.
        self.model_runner.start_drafting(measure_step_cost(self.model_runner))
        return super().compile_or_warm_up_model()

    def dspark_stats(self) -> dict[str, Any]:
        """Totals of the adapter and of its draft source, and what is open now.

        Ranks that do not draft give `committed_digest` alone: it has to be rank 0's.
        """
        adapter = self.model_runner.adapter
        digest = {"committed_digest": self.model_runner.committed.value}
        if isinstance(adapter, Follower):
            return digest
        return digest | {
            **asdict(adapter.stats),
            "requests": len(self.model_runner.requests),
            "sessions": adapter.num_sessions,
            "policy": self.model_runner.policy_settings,
            "controls": self.model_runner.controls.model_dump(exclude_none=True),
            "schedule": adapter.policy.snapshot(),
            "source": asdict(adapter.source.stats),
        }

    def dspark_apply_plan(
        self,
        drafter_address: str | None,
        secret: str,
        drafter_key: str | None,
        controls: dict[str, Any],
    ) -> None:
        """Use this drafter and these controls from the next step on; no address: no drafter."""
        adapter = self.model_runner.adapter
        if isinstance(adapter, Follower):
            return
        source = adapter.source
        if isinstance(source, RemoteDraftSource):
            source.set_address(drafter_address, secret, drafter_key)
        self.model_runner.set_controls(Controls.model_validate(controls))
