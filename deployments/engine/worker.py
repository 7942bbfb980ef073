"""vLLM's CPU worker with our model runners."""

from __future__ import annotations

from typing import Any

import torch
import vllm.lora.ops.torch_ops.lora_ops as lora_ops
import vllm.lora.punica_wrapper.punica_cpu as punica_cpu
import vllm.v1.sample.rejection_sampler as rejection_sampler
import vllm.v1.worker.cpu_worker as cpu_worker
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker
from vllm.v1.worker.gpu_input_batch import InputBatch

from deployments.engine.compat import PROCESSORS
from deployments.engine.drafting_worker import DraftingWorker, replaced
from deployments.engine.patches import (
    mend_allowed_tokens,
    mend_cpu_lora,
    mend_cpu_rejection_sampler,
)
from deployments.engine.runner import DraftingRunner
from deployments.engine.said import take_up_in_worker
from deployments.engine.seeded import SeededCPUModelRunner


class DSparkCPUModelRunner(DraftingRunner, SeededCPUModelRunner):
    """The CPU runner that drafts; its rejection sampler is mended before the first step."""

    def __init__(self, vllm_config: Any, device: torch.device) -> None:
        super().__init__(vllm_config, device)
        mend_cpu_rejection_sampler(rejection_sampler)


class PlainCPUWorker(CPUWorker):  # type: ignore[misc]
    """vLLM's CPU worker with a runner of ours: here the one that survives seeded requests, and
    adapters beside the base model."""

    capability = PROCESSORS
    runner_class: type[CPUModelRunner] = SeededCPUModelRunner

    def init_device(self) -> None:
        take_up_in_worker(InputBatch)
        mend_allowed_tokens(InputBatch)
        mend_cpu_lora(lora_ops, punica_cpu)
        with replaced(cpu_worker, "CPUModelRunner", self.runner_class):
            super().init_device()


class DSparkCPUWorker(DraftingWorker, PlainCPUWorker):
    """Builds `DSparkCPUModelRunner`, which drafts."""

    runner_class = DSparkCPUModelRunner
