"""vLLM's CPU worker with our model runner, and the calls a target replica makes to it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import vllm.v1.worker.cpu_worker as cpu_worker
from vllm.v1.worker.cpu_worker import CPUWorker

from deployments.engine.compat import check_engine_hooks
from deployments.engine.runner import DSparkCPUModelRunner
from deployments.engine.step_time import measure_step_cost
from drafters.sources import RemoteDraftSource


class DSparkCPUWorker(CPUWorker):  # type: ignore[misc]
    """Builds `DSparkCPUModelRunner` where vLLM would build its own.

    vLLM names its runner class inside `init_device`; swapping that module's global for
    the call is the one hook without an official door.
    """

    def init_device(self) -> None:
        check_engine_hooks()
        original = cpu_worker.CPUModelRunner
        cpu_worker.CPUModelRunner = DSparkCPUModelRunner
        try:
            super().init_device()
        finally:
            cpu_worker.CPUModelRunner = original

    def compile_or_warm_up_model(self) -> Any:
        # Before vLLM's own part, which ends by seeding the sampler's generator.
        self.model_runner.start_drafting(measure_step_cost(self.model_runner))
        return super().compile_or_warm_up_model()

    def dspark_stats(self) -> dict[str, Any]:
        """Totals of the adapter and of its draft source, and what is open now."""
        adapter = self.model_runner.adapter
        return {
            **asdict(adapter.stats),
            "requests": len(self.model_runner.requests),
            "sessions": adapter.num_sessions,
            "policy": self.model_runner.policy_settings,
            "schedule": adapter.policy.snapshot(),
            "source": asdict(adapter.source.stats),
        }

    def dspark_apply_plan(
        self, drafter_address: str | None, secret: str, policy: dict[str, Any] | None
    ) -> None:
        """Use this drafter and policy from the next step on.

        No address means no drafter; no policy leaves the one in use.
        """
        source = self.model_runner.adapter.source
        if isinstance(source, RemoteDraftSource):
            source.set_address(drafter_address, secret)
        if policy is not None and policy != self.model_runner.policy_settings:
            self.model_runner.set_policy(policy)
