"""The training loop: steps, schedule, checkpoints that resume exactly."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from drafters.errors import CheckpointError
from drafters.training.blocks import counted_positions
from drafters.training.checkpoints import FILE_NAME, read_checkpoint, write_checkpoint
from drafters.training.data import Batch, BatchPlan, TextSequence, make_batch, read_sequences
from drafters.training.drafter import batch_losses, new_drafter, trained_state
from drafters.training.losses import DraftLosses
from drafters.training.output import write_drafter
from drafters.training.plan import TrainingPlan
from drafters.training.progress import Progress
from drafters.training.stopping import StopRequest
from drafters.training.target import FrozenTarget

_EVALUATION_BATCH = 8


class Trainer:
    """A drafter, its optimizer and the step they are at."""

    def __init__(self, plan: TrainingPlan, device: torch.device | str | None = None) -> None:
        """`device` None is CUDA where there is one, else the CPU.

        Raises CheckpointError for a target that cannot be read, ValueError for the data.
        """
        self.plan = plan
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        sequences = read_sequences(Path(plan.data), plan.max_tokens)
        if len(sequences) < plan.held_out + plan.batch_size:
            raise ValueError(
                f"{plan.data}: {len(sequences)} usable rows; held_out {plan.held_out} and a "
                f"batch of {plan.batch_size} need more"
            )
        split = len(sequences) - plan.held_out
        self.held_out = sequences[split:]
        self.batches = BatchPlan(
            sequences[:split],
            batch_size=plan.batch_size,
            num_anchors=plan.num_anchors,
            anchor_span=plan.anchor_span,
            seed=plan.seed,
        )
        dtype = torch.bfloat16 if plan.autocast else torch.float32
        self.target = FrozenTarget(plan.target_dir, plan.target_layer_ids, dtype, self.device)
        self.model = new_drafter(plan, self.target)
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._trained, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=plan.weight_decay
        )
        self.step = 0
        self.progress = Progress()

    def train_step(self) -> DraftLosses:
        """One batch, one update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(self.step)
        batch = self.batches.batch(self.step)
        losses = self.losses(batch)
        self.optimizer.zero_grad(set_to_none=True)
        (losses.total / losses.weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._trained, self.plan.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.progress.tokens += int(batch.lengths.sum())
        self.progress.positions += int(counted_positions(batch, self.plan.block_size).sum())
        return losses.detached()

    def losses(self, batch: Batch) -> DraftLosses:
        """Losses of a batch under the current weights."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.plan.autocast):
            return batch_losses(self.model, self.target, batch.to(self.device), self.plan)

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Mean losses and acceptance lengths of the held-out rows, by domain."""
        return {
            domain: self._evaluate([row for row in self.held_out if row.domain == domain])
            for domain in sorted({row.domain for row in self.held_out})
        }

    def _evaluate(self, rows: list[TextSequence]) -> dict[str, float]:
        chosen = random.Random(self.plan.seed)
        firsts = range(0, len(rows), _EVALUATION_BATCH)
        parts = [
            self.losses(make_batch(rows[i : i + _EVALUATION_BATCH], self.plan.num_anchors, chosen))
            for i in firsts
        ]
        return sum(parts[1:], parts[0]).means()

    def save(self, directory: Path) -> None:
        """Write what resuming needs."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        write_checkpoint(directory, state)

    def resume(self, directory: Path) -> bool:
        """Go on from `directory`'s checkpoint; False when there is none.

        Raises CheckpointError when it is damaged or was written under another plan.
        """
        state = read_checkpoint(directory)
        if state is None:
            return False
        mine = asdict(self.plan)
        for name in mine:
            if state["plan"].get(name) != mine[name]:
                raise CheckpointError(
                    f"{directory / FILE_NAME}: trained with {name} {state['plan'].get(name)!r}, "
                    f"now {mine[name]!r}; use the same settings, or another output directory"
                )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.progress = Progress(**state["progress"])
        return True


def train(
    plan: TrainingPlan, output: Path, *, checkpoint_every: int, report: Callable[[str], None]
) -> bool:
    """Train to the plan's last step, resuming what `output` holds, and write the drafter.

    True when it is done. On SIGTERM or SIGINT a checkpoint is written and it ends early,
    with False: the same call goes on from there. `output` gets what
    `drafters.training.output` says. Raises CheckpointError and ValueError.
    """
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(plan)
    if trainer.resume(output):
        report(f"resuming at step {trainer.step}")
    progress, began, first = trainer.progress, time.monotonic(), trainer.step
    earlier_s = progress.seconds
    with StopRequest() as stop:
        while trainer.step < plan.steps and not stop.requested:
            progress.add(trainer.train_step().means())
            progress.seconds = earlier_s + time.monotonic() - began
            if trainer.step % 10 == 0 or trainer.step == plan.steps:
                left_s = (time.monotonic() - began) / (trainer.step - first)
                left_s *= plan.steps - trainer.step
                progress.note(trainer.step)
                report(
                    f"step {trainer.step}/{plan.steps}  loss {progress.loss:.4f}  acceptance "
                    f"length {progress.acceptance_length:.2f}  {left_s / 60:.1f} min left"
                )
            if trainer.step % checkpoint_every == 0:
                trainer.save(output)
    if trainer.step > first:
        trainer.save(output)
    if trainer.step < plan.steps:
        report(f"stopped at step {trainer.step}; the same command goes on from there")
        return False
    write_drafter(
        plan, trainer.model, output, progress=trainer.progress, held_out=trainer.evaluate()
    )
    return True
