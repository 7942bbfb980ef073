"""The training loop of one process: steps, schedule, checkpoints that resume exactly."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from drafters.checkpoint import fields_for_target
from drafters.dspark import DSparkModel
from drafters.tensor_files import TARGET_TENSORS
from drafters.training.data import Batch, BatchPlan, TextSequence, make_batch, read_sequences
from drafters.training.initial import new_drafter
from drafters.training.losses import DraftLosses, draft_losses
from drafters.training.packing import packed_backbone
from drafters.training.plan import TrainingPlan
from drafters.training.target import FrozenTarget

_CHECKPOINT = "training.pt"
_EVALUATION_BATCH = 8


@dataclass(slots=True)
class Progress:
    """A moving picture of the run."""

    loss: float = float("nan")
    acceptance_length: float = float("nan")
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def add(self, losses: DraftLosses) -> None:
        """Moving averages over some twenty steps."""
        self.loss = _moved(self.loss, losses.total.item())
        self.acceptance_length = _moved(self.acceptance_length, losses.acceptance_length.item())


def _moved(average: float, value: float) -> float:
    return value if math.isnan(average) else 0.95 * average + 0.05 * value


class Trainer:
    """A drafter, its optimizer and the step they are at."""

    def __init__(self, plan: TrainingPlan) -> None:
        """Raises CheckpointError for a target that cannot be read, ValueError for the data."""
        self.plan = plan
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
            seed=plan.seed,
        )
        dtype = torch.bfloat16 if plan.autocast else torch.float32
        self.target = FrozenTarget(plan.target_dir, plan.target_layer_ids, dtype)
        self.model = new_drafter(plan, self.target)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=plan.weight_decay
        )
        self.step = 0
        self.progress = Progress()

    def train_step(self) -> DraftLosses:
        """One batch, one update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(self.step)
        losses = self.losses(self.batches.batch(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        losses.total.backward()  # type: ignore[no-untyped-call]
        trained = [p for p in self.model.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, self.plan.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        return losses

    def losses(self, batch: Batch) -> DraftLosses:
        """Losses of a batch under the current weights."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.autocast):
            return batch_losses(self.model, self.target, batch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, dict[str, float]]:
        """Mean losses and acceptance lengths of the held-out rows, by domain."""
        results: dict[str, dict[str, float]] = {}
        for domain in sorted({sequence.domain for sequence in self.held_out}):
            rows = [sequence for sequence in self.held_out if sequence.domain == domain]
            results[domain] = self._evaluate(rows)
        return results

    def _evaluate(self, rows: list[TextSequence]) -> dict[str, float]:
        chosen = random.Random(self.plan.seed)
        sums: dict[str, float] = {}
        for first in range(0, len(rows), _EVALUATION_BATCH):
            some = rows[first : first + _EVALUATION_BATCH]
            losses = self.losses(make_batch(some, self.plan.num_anchors, chosen))
            for name in DraftLosses.__slots__:
                value = getattr(losses, name).item() * len(some)
                sums[name] = sums.get(name, 0.0) + value
        return {name: value / len(rows) for name, value in sums.items()}

    def save(self, directory: Path) -> None:
        """Write what resuming needs; an interruption leaves the former file whole."""
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }
        partial = directory / (_CHECKPOINT + ".partial")
        torch.save(state, partial)
        partial.replace(directory / _CHECKPOINT)

    def resume(self, directory: Path) -> bool:
        """Go on from `directory`'s checkpoint; False when there is none.

        Raises ValueError when it was written under another plan.
        """
        path = directory / _CHECKPOINT
        if not path.exists():
            return False
        state: dict[str, Any] = torch.load(path, weights_only=True)
        mine = asdict(self.plan)
        differing = [name for name in mine if state["plan"].get(name) != mine[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{path}: trained with {name} {state['plan'].get(name)!r}, now {mine[name]!r}; "
                "use the same settings, or another output directory"
            )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.progress = Progress(**state["progress"])
        return True


def batch_losses(model: DSparkModel, target: FrozenTarget, batch: Batch) -> DraftLosses:
    """Losses of all blocks of a batch, packed."""
    features, last_hidden = target.read(batch.tokens)
    valid = batch.anchors >= 0
    anchors = batch.anchors.clamp_min(0)
    hidden = packed_backbone(model, features.to(model.dtype), batch.tokens, anchors)[valid]
    positions = anchors.unsqueeze(-1) + torch.arange(model.config.block_size)  # [B, n, gamma]
    counted = (positions + 1 < batch.lengths[:, None, None])[valid]
    last = batch.tokens.shape[1] - 1
    previous = _at(batch.tokens, positions.clamp(max=last))[valid]
    labels = _at(batch.tokens, (positions + 1).clamp(max=last))[valid]
    target_hidden = _at(last_hidden, positions.clamp(max=last))[valid]
    logits, confidence_logits = model.heads(hidden, previous)
    assert confidence_logits is not None
    return draft_losses(logits, confidence_logits, target.logits(target_hidden), labels, counted)


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """`values` [B, T, ...] at `positions` [B, n, gamma]."""
    rows = torch.arange(len(values))[:, None, None]
    return values[rows, positions]


def trained_state(model: DSparkModel) -> dict[str, Tensor]:
    """The weights that training changes: all but those shared with the target."""
    return {k: v for k, v in model.state_dict().items() if k not in TARGET_TENSORS}


def train(
    plan: TrainingPlan, output: Path, *, checkpoint_every: int, report: Callable[[str], None]
) -> None:
    """Train to the plan's last step, resuming what `output` holds, and write the drafter.

    `output` gets config.json, model.safetensors (bfloat16, without the target's embedding
    and LM head) and training.json (the plan, losses on the way, evaluation).
    """
    output.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(plan)
    if trainer.resume(output):
        report(f"resuming at step {trainer.step}")
    progress, began, first = trainer.progress, time.monotonic(), trainer.step
    earlier_s = progress.seconds
    while trainer.step < plan.steps:
        progress.add(trainer.train_step())
        progress.seconds = earlier_s + time.monotonic() - began
        last = trainer.step == plan.steps
        if trainer.step % 10 == 0 or last:
            left_s = (time.monotonic() - began) / (trainer.step - first)
            left_s *= plan.steps - trainer.step
            progress.history.append(
                {
                    "step": trainer.step,
                    "loss": progress.loss,
                    "acceptance_length": progress.acceptance_length,
                }
            )
            report(
                f"step {trainer.step}/{plan.steps}  loss {progress.loss:.4f}  "
                f"acceptance length {progress.acceptance_length:.2f}  {left_s / 60:.1f} min left"
            )
        if trainer.step % checkpoint_every == 0 or last:
            trainer.save(output)
    write_drafter(trainer, output)


def write_drafter(trainer: Trainer, output: Path) -> None:
    """The checkpoint that serving loads, and the record of its training."""
    plan = trainer.plan
    weights = trained_state(trainer.model)
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()},
        output / "model.safetensors",
    )
    fields = fields_for_target(
        plan.target_dir,
        num_layers=plan.num_layers,
        block_size=plan.block_size,
        markov_rank=plan.markov_rank,
        target_layer_ids=plan.target_layer_ids,
    )
    (output / "config.json").write_text(json.dumps(fields, indent=2) + "\n")
    settings = asdict(plan)
    for path_name in ("target_dir", "data"):
        settings[path_name] = Path(settings[path_name]).name
    record = {
        "plan": settings,
        "seconds": trainer.progress.seconds,
        "history": trainer.progress.history,
        "held_out": trainer.evaluate(),
    }
    (output / "training.json").write_text(json.dumps(record, indent=1) + "\n")
