"""`dspark train`: from settings to a plan, then an estimate of it or the run itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch

from drafters.answers import TARGET, answer_parts, copy_answers, made_by
from drafters.checkpoint import empty_model
from drafters.config import DrafterConfig
from drafters.hub import checkpoint_directory
from drafters.training.data import read_sequences
from drafters.training.estimate import Assumptions, Estimate, estimate, measured_tflops, target_size
from drafters.training.kinds import KINDS
from drafters.training.loop import RunOptions, train
from drafters.training.on_ray import train_on_ray
from drafters.training.settings import TrainingSettings, read_settings
from profiles.fingerprint import checkpoint_fingerprint


def run(args: argparse.Namespace) -> bool:
    """Whether there is nothing left to do. Raises CheckpointError, ValueError and OSError."""
    settings = read_settings(args.config, _changes(args))
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    if args.estimate:
        print(estimate_of(settings, args.data, workers=args.workers or 1), flush=True)
        return True
    if args.data is None or args.output is None:
        raise ValueError("--data and --output are needed, but for --estimate")
    target_dir = checkpoint_directory(settings.target, settings.revision)
    settings = settings.model_copy(update={"target": str(target_dir)})  # the newest moves on
    if settings.start_from is not None:
        start_from = str(checkpoint_directory(settings.start_from).resolve())
        settings = settings.model_copy(update={"start_from": start_from})
    data = args.data
    if args.copy_data:
        data = str(args.output / "answers")
        copy_answers(Path(args.data), Path(data))
    text = _text_size(settings, data)
    plan = settings.plan(str(target_dir.resolve()), str(Path(data).resolve()), text.num_rows)
    options = RunOptions(
        checkpoint_every=args.checkpoint_every,
        micro_batch=settings.micro_batch,
        feature_cache=args.feature_cache,
    )
    report = _report
    of_device = _device_memory_gb()
    report(str(estimate_of(settings, data, text, workers=args.workers or 1, memory_gb=of_device)))
    for line in foreign_answers(Path(data), target_dir):
        report(line)
    if args.workers is None:
        return train(plan, args.output, report, options)
    use_gpu = torch.cuda.is_available() if args.use_gpu is None else args.use_gpu
    return train_on_ray(
        plan, args.output, report, options, num_workers=args.workers, use_gpu=use_gpu
    )


def foreign_answers(data: Path, target_dir: Path) -> list[str]:
    """A warning where answers are of other weights than the target's."""
    ours = checkpoint_fingerprint(target_dir)
    targets = {made_by(part).get(TARGET, ours) for part in answer_parts(data)}
    return [
        f"warning: answers in {data} are of another target ({theirs}) than {target_dir} ({ours}): "
        "a drafter learns what its target says, so let this one answer (dspark generate)"
        for theirs in sorted(targets - {ours})
    ]


def estimate_of(
    settings: TrainingSettings,
    data: str | None,
    text: TextSize | None = None,
    *,
    workers: int = 1,
    memory_gb: float | None = None,
) -> Estimate:
    """The estimate for settings over `data`, of size `text` where that is known, or over what
    the settings assume of it; `memory_gb` is the device's, where there is one."""
    target_dir = str(checkpoint_directory(settings.target, settings.revision, weights=False))
    num_rows, tokens_per_row = text or _text_size(settings, data)
    plan = settings.plan(target_dir, data or "", num_rows)
    config = DrafterConfig.from_dict(KINDS[plan.kind].fields(plan), "the drafter to be trained")
    return estimate(
        plan,
        empty_model(config),
        target_size(target_dir),
        num_rows=num_rows,
        tokens_per_row=tokens_per_row,
        rows_at_once=settings.micro_batch or -(-plan.batch_size // workers),
        assumed=Assumptions(
            settings.assumed_tflops or measured_tflops(),
            settings.assumed_utilisation,
            settings.assumed_acceptance_length,
            memory_gb or settings.assumed_memory_gb,
        ),
    )


class TextSize(NamedTuple):
    """Of what is trained on: usable rows, and tokens of one on average."""

    num_rows: int
    tokens_per_row: float


def _text_size(settings: TrainingSettings, data: str | None) -> TextSize:
    if data is not None:
        lengths = [len(row.tokens) for row in read_sequences(Path(data), settings.max_tokens)]
        return TextSize(len(lengths), sum(lengths) / len(lengths))
    if settings.assumed_rows is None or settings.assumed_tokens_per_row is None:
        raise ValueError("an estimate needs --data, or assumed_rows and assumed_tokens_per_row")
    return TextSize(settings.assumed_rows, settings.assumed_tokens_per_row)


def _device_memory_gb() -> float | None:
    """Of this machine's first GPU, None without one."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 1e9


def _changes(args: argparse.Namespace) -> dict[str, object]:
    """What the command line says about settings."""
    return {name: getattr(args, name, None) for name in TrainingSettings.model_fields}


def _report(line: str) -> None:
    print(line, flush=True)
