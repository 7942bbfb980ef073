"""One worker's part of a training run: the drafter, its optimizer, and a step of both."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from drafters.errors import CheckpointError
from drafters.training.blocks import counted_positions
from drafters.training.checkpoints import FILE_NAME, read_checkpoint, write_checkpoint
from drafters.training.data import (
    Batch,
    BatchPlan,
    TextSequence,
    data_digest,
    make_batch,
    read_sequences,
    split_held_out,
)
from drafters.training.drafter import batch_losses, batch_weight, new_drafter, trained_state
from drafters.training.feature_cache import CachedStates, FeatureCache
from drafters.training.losses import DraftLosses
from drafters.training.plan import TrainingPlan
from drafters.training.progress import Progress
from drafters.training.target import FrozenTarget
from drafters.training.workers import OneWorker, Workers
from profiles.fingerprint import checkpoint_fingerprint

_EVALUATION_BATCH = 8
_PLACES = {"target_dir", "data", "start_from"}  # may move: what lies there is compared


class Trainer:
    """A drafter, its optimizer and the step they are at.

    Every worker has its own, with equal weights after every step.
    """

    def __init__(
        self,
        plan: TrainingPlan,
        *,
        device: torch.device | str | None = None,
        workers: Workers | None = None,
        micro_batch: int | None = None,
    ) -> None:
        """`device` None is CUDA where there is one, else the CPU.

        Gradients of `micro_batch` sequences at a time are accumulated; None takes a worker's
        share whole. Raises CheckpointError for a target that cannot be read, ValueError for
        the data.
        """
        self.plan = plan
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.workers = workers or OneWorker()
        self._micro_batch = micro_batch
        self.sequences = read_sequences(Path(plan.data), plan.max_tokens)
        if len(self.sequences) < plan.held_out + plan.batch_size:
            raise ValueError(
                f"{plan.data}: {len(self.sequences)} usable rows; held_out {plan.held_out} and a "
                f"batch of {plan.batch_size} need more"
            )
        self._data_digest = data_digest(self.sequences)
        self._target_version = checkpoint_fingerprint(Path(plan.target_dir))
        trained_on, self.held_out = split_held_out(self.sequences, plan.held_out)
        if not self.held_out:
            raise ValueError(
                f"{plan.data}: every prompt has more than {plan.held_out} answers, and those of "
                "one prompt are held out together; give a larger held_out"
            )
        self.batches = BatchPlan(
            trained_on,
            batch_size=plan.batch_size,
            num_anchors=plan.num_anchors,
            anchor_span=plan.anchor_span,
            seed=plan.seed,
        )
        dtype = torch.bfloat16 if plan.autocast else torch.float32
        self.target = FrozenTarget(plan.target_dir, plan.target_layer_ids, dtype, self.device)
        self.model = new_drafter(plan, self.target)
        begun = plan.start_from
        self._start_version = None if begun is None else checkpoint_fingerprint(Path(begun))
        self._cached: CachedStates | None = None
        self._trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self._trained, lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=plan.weight_decay
        )
        self.step = 0
        self.progress = Progress()
        self._best: Mapping[str, Tensor] | None = None

    def use_cache(self, directory: Path) -> None:
        """Read the target's states from a cache from now on, filling it where it is not full.

        Raises ValueError for a disk that is too small, or a cache of something else.
        """
        cache = FeatureCache(
            directory,
            {
                "target": self._target_version,
                "target_layer_ids": str(self.plan.target_layer_ids),
                "dtype": str(self.target.dtype),
                "data": self._data_digest,
            },
        )
        cache.fill(self.sequences, self.target, self.workers.rank, self.workers.count)
        self.workers.wait()
        self._cached = cache.opened(self.sequences, self.device)
        self.target.drop_decoder()

    def train_step(self) -> DraftLosses:
        """One batch, one update."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.learning_rate_at(self.step)
        batch = self.batches.batch(self.step)
        weight = batch_weight(batch, self.plan).to(self.device)
        self.optimizer.zero_grad(set_to_none=True)
        losses = DraftLosses.none(self.device)
        for part in batch.share(self.workers.rank, self.workers.count, self._micro_batch):
            losses += self.losses(part, gradients_over=weight)
        self._add_up_gradients()
        torch.nn.utils.clip_grad_norm_(self._trained, self.plan.max_grad_norm)
        self.optimizer.step()
        self.step += 1
        self.progress.tokens += int(batch.lengths.sum())
        self.progress.positions += int(counted_positions(batch, self.plan.block_size).sum())
        self.workers.add_up(losses.sums)
        return losses

    def losses(self, batch: Batch, gradients_over: Tensor | None = None) -> DraftLosses:
        """Losses of a batch under the current weights; for `gradients_over` see
        `batch_losses`."""
        batch = batch.to(self.device)
        states = self._cached.read(batch) if self._cached else None
        return batch_losses(
            self.model, self.target, batch, self.plan, states, gradients_over=gradients_over
        )

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Mean losses and acceptance lengths of the held-out rows, by domain."""
        return {
            domain: self._held_out_losses(
                [row for row in self.held_out if row.domain == domain]
            ).means()
            for domain in sorted({row.domain for row in self.held_out})
        }

    def evaluate_on_the_way(self) -> None:
        """Note the held-out acceptance length, and keep the weights if it is the longest."""
        length = self._held_out_losses(self.held_out).means()["acceptance_length"]
        self.progress.evaluations.append({"step": self.step, "acceptance_length": length})
        if self.progress.is_at_best:
            self._best = {k: v.cpu().clone() for k, v in trained_state(self.model).items()}

    def take_best_weights(self) -> None:
        """Give the drafter the weights of the best evaluation, where there was one."""
        if self._best is not None:
            self.model.load_state_dict(self._best, strict=False)

    @torch.no_grad()
    def _held_out_losses(self, rows: list[TextSequence]) -> DraftLosses:
        chosen = random.Random(self.plan.seed)
        size = self._micro_batch or _EVALUATION_BATCH  # what has room in training has room here
        batches = [
            make_batch(rows[i : i + size], self.plan.num_anchors, chosen)
            for i in range(0, len(rows), size)
        ]
        losses = DraftLosses.none(self.device)
        for batch in batches[self.workers.rank :: self.workers.count]:
            losses += self.losses(batch)
        self.workers.add_up(losses.sums)
        return losses

    def _add_up_gradients(self) -> None:
        gradients = []
        for parameter in self._trained:
            if parameter.grad is None:  # this worker had no part of the batch
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        self.workers.add_up(gradients)

    def any_worker(self, flag: bool) -> bool:
        """Whether `flag` is set in any of the workers."""
        count = torch.tensor(float(flag), device=self.device)
        self.workers.add_up([count])
        return bool(count)

    def save(self, directory: Path) -> None:
        """Write what resuming needs, by the first of the workers."""
        if self.workers.rank:
            return
        state = {
            "plan": asdict(self.plan),
            "data": self._data_digest,
            "target": self._target_version,
            "start_from": self._start_version,
            "step": self.step,
            "model": trained_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "best": self._best,
        }
        write_checkpoint(directory, state)

    def resume(self, directory: Path) -> bool:
        """Go on from `directory`'s checkpoint; False when there is none.

        Raises CheckpointError when it is damaged, of another version, or was written under
        another plan or from another beginning.
        """
        state = read_checkpoint(directory)
        if state is None:
            return False
        mine = asdict(self.plan)
        for name in mine.keys() - _PLACES:
            if state["plan"].get(name) != mine[name]:
                raise CheckpointError(
                    f"{directory / FILE_NAME}: trained with {name} {state['plan'].get(name)!r}, "
                    f"now {mine[name]!r}; use the same settings, or another output directory"
                )
        if state["data"] != self._data_digest:
            raise CheckpointError(
                f"{directory / FILE_NAME}: {self.plan.data} has changed since; bring back what "
                "the run was begun with, or use another output directory"
            )
        if state["target"] != self._target_version:
            raise CheckpointError(
                f"{directory / FILE_NAME}: {self.plan.target_dir} has other weights than the run "
                "was begun with; bring those back, or use another output directory"
            )
        if state["start_from"] != self._start_version:
            raise CheckpointError(
                f"{directory / FILE_NAME}: begun from drafter {state['start_from']}, but "
                f"start_from is {self.plan.start_from} ({self._start_version}) now; bring that "
                "one back, or use another output directory"
            )
        self.model.load_state_dict(state["model"], strict=False)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.progress = Progress(**state["progress"])
        self._best = state["best"]
        return True
