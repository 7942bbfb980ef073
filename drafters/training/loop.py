"""The training loop: steps, checkpoints that resume exactly, and what comes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from drafters.training.memory import peak_memory_bytes
from drafters.training.output import write_drafter
from drafters.training.plan import TrainingPlan
from drafters.training.stopping import StopRequest
from drafters.training.trainer import Trainer
from drafters.training.workers import OneWorker, Workers
from drafters.training_record import RECORD

_REPORT_EVERY = 10  # steps

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is carried out; nothing here decides what comes out but for rounding.

    `checkpoint_every` is in steps, `micro_batch` in sequences (None: a worker's whole
    share), `device` None is CUDA where there is one. With a `feature_cache` directory the
    target's states are computed once and kept there.
    """

    checkpoint_every: int = 50
    micro_batch: int | None = None
    device: str | None = None
    feature_cache: Path | None = None


def train(
    plan: TrainingPlan,
    output: Path,
    report: Report,
    options: RunOptions | None = None,
    workers: Workers | None = None,
) -> bool:
    """Train to the plan's last step, resuming what `output` holds, and write the drafter.

    True when it is done. On SIGTERM or SIGINT a checkpoint is written and it ends early,
    with False: the same call goes on from there. `output` gets what
    `drafters.training.output` says. Raises CheckpointError and ValueError.
    """
    options, workers = options or RunOptions(), workers or OneWorker()
    is_first = workers.rank == 0
    if is_first:
        output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(plan, device=options.device, workers=workers, micro_batch=options.micro_batch)
    if options.feature_cache is not None:
        trainer.use_cache(options.feature_cache)
    if trainer.resume(output):
        report(f"resuming at step {trainer.step}")
    if is_first:
        (output / RECORD).unlink(missing_ok=True)  # that of an earlier run: this one has not ended
    finished = _run(trainer, output, report if is_first else _say_nothing, options)
    if not finished:
        report(f"stopped at step {trainer.step}; the same command goes on from there")
        return False
    trainer.take_best_weights()
    held_out = trainer.evaluate()
    if is_first:
        write_drafter(plan, trainer.model, output, progress=trainer.progress, held_out=held_out)
    report(summary(trainer))
    return True


def _run(trainer: Trainer, output: Path, report: Report, options: RunOptions) -> bool:
    """Steps until the last, a stall, or a request to stop; whether it is finished."""
    plan, progress = trainer.plan, trainer.progress
    began, first, earlier_s = time.monotonic(), trainer.step, progress.seconds
    with StopRequest() as stop:
        while not _is_finished(trainer):
            progress.add(trainer.train_step().means())
            progress.seconds = earlier_s + time.monotonic() - began
            if trainer.step % _REPORT_EVERY == 0 or trainer.step == plan.steps:
                left_s = (time.monotonic() - began) / (trainer.step - first)
                left_s *= plan.steps - trainer.step
                progress.note(trainer.step)
                report(
                    f"step {trainer.step}/{plan.steps}  loss {progress.loss:.4f}  acceptance "
                    f"length {progress.acceptance_length:.2f}  {left_s / 60:.1f} min left"
                )
            if plan.evaluate_every and trainer.step % plan.evaluate_every == 0:
                trainer.evaluate_on_the_way()
                report(f"held out: {progress.evaluations[-1]['acceptance_length']:.3f}")
            stopping = trainer.any_worker(stop.requested)
            if stopping or trainer.step % options.checkpoint_every == 0 or _is_finished(trainer):
                trainer.save(output)
            if stopping:
                break
    return _is_finished(trainer)


def _is_finished(trainer: Trainer) -> bool:
    plan = trainer.plan
    return trainer.step >= plan.steps or trainer.progress.has_stalled(plan.patience)


def _say_nothing(line: str) -> None:
    return None


def summary(trainer: Trainer) -> str:
    """Speed and memory of a finished run, of all its workers together."""
    progress = trainer.progress
    best = progress.best_evaluation
    seconds = max(progress.seconds, 1e-9)
    lines = [
        f"{trainer.step} steps in {seconds / 60:.1f} min: {progress.tokens / seconds:,.0f} tokens "
        f"of text and {progress.positions / seconds:,.0f} draft positions per second",
        f"peak memory {peak_memory_bytes(trainer.device) / 2**30:.2f} GiB per process "
        f"({'GPU' if trainer.device.type == 'cuda' else 'resident'})",
    ]
    if best is not None:
        lines.append(f"weights of step {progress.evaluations[best]['step']}, the best held out")
    return "\n".join(lines)
