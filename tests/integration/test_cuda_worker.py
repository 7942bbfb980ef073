"""The CUDA worker as far as a machine without a GPU can look at it."""

import pytest
import torch
import vllm.v1.worker.gpu_model_runner as gpu_model_runner
import vllm.v1.worker.gpu_worker as gpu_worker

from deployments.engine import cuda_worker, worker
from deployments.engine.drafting_worker import DraftingWorker
from deployments.engine.runner import DraftingRunner
from drafters.messages import SparseDistribution

pytestmark = pytest.mark.light


def test_processor_and_cuda_workers_differ_in_their_base_classes_alone():
    own = {name for name in vars(cuda_worker.DSparkGPUWorker) if not name.startswith("__")}
    runner = {name for name in vars(cuda_worker.DSparkGPUModelRunner) if not name.startswith("__")}
    assert own == runner == set()
    for pair in (worker.DSparkCPUWorker, cuda_worker.DSparkGPUWorker):
        assert pair.__mro__[1] is DraftingWorker
    for pair in (worker.DSparkCPUModelRunner, cuda_worker.DSparkGPUModelRunner):
        assert pair.__mro__[1] is DraftingRunner


def test_the_runner_is_ours_while_the_device_comes_up_and_vllms_afterwards(monkeypatch):
    seen = []
    monkeypatch.setattr(
        gpu_worker.Worker, "init_device", lambda self: seen.append(gpu_model_runner.GPUModelRunner)
    )
    made = cuda_worker.DSparkGPUWorker.__new__(cuda_worker.DSparkGPUWorker)
    monkeypatch.setattr(gpu_worker.Worker, "use_v2_model_runner", False, raising=False)
    original = gpu_model_runner.GPUModelRunner
    made.init_device()
    assert seen == [cuda_worker.DSparkGPUModelRunner]
    assert gpu_model_runner.GPUModelRunner is original


def test_the_v2_runner_is_refused_with_the_mend(monkeypatch):
    monkeypatch.setattr(gpu_worker.Worker, "use_v2_model_runner", True, raising=False)
    made = cuda_worker.DSparkGPUWorker.__new__(cuda_worker.DSparkGPUWorker)
    with pytest.raises(RuntimeError, match="VLLM_USE_V2_MODEL_RUNNER=0"):
        made.init_device()


def test_a_distribution_moves_whole():
    q = SparseDistribution(torch.tensor([[1]]), torch.tensor([[1.0]])).to(torch.device("meta"))
    assert (q.token_ids.device.type, q.probs.device.type) == ("meta", "meta")
