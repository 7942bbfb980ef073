"""The training loop on Ray Train: one worker per GPU, on any number of nodes.

Each worker runs the same `train` as a process alone does. Paths must lead to the same
files on every node: Ray moves code, no checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from drafters.training.loop import RunOptions, train
from drafters.training.plan import TrainingPlan
from drafters.training.workers import TorchWorkers
from drafters.training_record import RECORD


@dataclass(frozen=True, slots=True)
class _Job:
    """What a worker is told."""

    plan: TrainingPlan
    output: Path
    options: RunOptions


def train_on_ray(
    plan: TrainingPlan,
    output: Path,
    report: Callable[[str], None],
    options: RunOptions,
    *,
    num_workers: int,
    use_gpu: bool,
) -> bool:
    """As `train`, by `num_workers` workers of the running or a new Ray cluster.

    Workers print what they report. Ray Train starts them again, from the last checkpoint,
    when one of them dies. Raises what `train` raises, and Ray's WorkerGroupError where
    workers went on dying of something else.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer

    cache = options.feature_cache
    options = replace(options, feature_cache=None if cache is None else cache.resolve())
    job = _Job(plan, output.resolve(), options)
    report(f"{num_workers} workers on {'a GPU' if use_gpu else 'processors'} each")
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
        run_config=RunConfig(
            name=output.name,
            storage_path=str(output.resolve().parent / ".ray-train"),
            failure_config=FailureConfig(max_failures=3),
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        raise _refusal(error.worker_failures) or error from None
    return (output / RECORD).exists()


def _refusal(failures: Mapping[int, Exception]) -> Exception | None:
    """What a worker could not use, as `train` alone would have said it; None for other deaths."""
    # Ray wraps what a worker raised, to keep its traceback.
    raised = (getattr(failure, "_base_exc", failure) for failure in failures.values())
    return next((one for one in raised if isinstance(one, ValueError | OSError)), None)


def _worker(config: dict[str, Any]) -> None:
    from ray.train.torch import get_device

    job: _Job = config["job"]
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    options = replace(job.options, device=str(device))
    train(job.plan, job.output, lambda line: print(line, flush=True), options, TorchWorkers())
