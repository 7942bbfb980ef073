"""What the step costs of this worker belong to: its machine, model, engine and ranks."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

from cluster.versions import VLLM, installed_version
from deployments.checkpoints import checkpoint_directory
from profiles.fingerprint import checkpoint_fingerprint
from profiles.step_cost import EngineProvenance

_CPU_INFO = Path("/proc/cpuinfo")
_NVIDIA_DRIVER = Path("/sys/module/nvidia/version")


def worker_provenance(vllm_config: Any, device: torch.device, nodes: int) -> EngineProvenance:
    """As it is inside a worker of a target that is spread over `nodes`."""
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    directory = checkpoint_directory(model.model, "the target", model.revision)
    over_nodes = f" over {nodes} nodes" if nodes > 1 else ""
    return EngineProvenance(
        hardware=_hardware(device),
        model_id=model.model if not Path(model.model).is_dir() else directory.name,
        model_revision=checkpoint_fingerprint(directory),
        dtype=str(model.dtype).removeprefix("torch."),
        parallelism=f"tp{parallel.tensor_parallel_size}{over_nodes}",
        engine="vllm, eager" if model.enforce_eager else "vllm",
        engine_version=installed_version(VLLM),
        driver=_driver(device),
    )


def _hardware(device: torch.device) -> str:
    """The GPU's product name, or the processor's."""
    if device.type != "cpu":
        return torch.cuda.get_device_name(device)
    lines = _CPU_INFO.read_text().splitlines() if _CPU_INFO.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.machine()


def _driver(device: torch.device) -> str:
    """The GPU's driver, or how many threads compute."""
    if device.type == "cpu":
        return f"{torch.get_num_threads()} thread(s)"
    return _NVIDIA_DRIVER.read_text().strip() if _NVIDIA_DRIVER.exists() else "unknown"
