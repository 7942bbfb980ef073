"""vLLM's CUDA worker (V1 runner) with our model runner.

Needs `VLLM_USE_V2_MODEL_RUNNER=0` in the replica's environment: the V2 runner has other
hooks, and vLLM's own DSpark with it (placement `native`). Not run on a GPU yet.
"""

from __future__ import annotations

import vllm.v1.worker.gpu_model_runner as gpu_model_runner
from vllm.v1.worker.gpu_model_runner import GPUModelRunner
from vllm.v1.worker.gpu_worker import Worker

from cluster.versions import CompatibilityError
from deployments.engine.compat import GPUS
from deployments.engine.drafting_worker import DraftingWorker, replaced
from deployments.engine.runner import DraftingRunner


class DSparkGPUModelRunner(DraftingRunner, GPUModelRunner):  # type: ignore[misc]
    """The CUDA runner that drafts."""


class _GPUWorker(Worker):  # type: ignore[misc]
    """Builds `DSparkGPUModelRunner`, which vLLM imports by name when its device is up."""

    capability = GPUS

    def init_device(self) -> None:
        if self.use_v2_model_runner:
            raise CompatibilityError(
                "this vLLM would use its V2 model runner, which has not the hooks that our "
                "drafter needs: set VLLM_USE_V2_MODEL_RUNNER=0, or use placement native"
            )
        with replaced(gpu_model_runner, "GPUModelRunner", DSparkGPUModelRunner):
            super().init_device()


class DSparkGPUWorker(DraftingWorker, _GPUWorker):
    """Drafts, and hands on what it drafted."""
