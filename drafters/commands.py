"""The drafter's commands: `dspark parity`, `dspark train` and `dspark evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from drafters.evaluation import commands as evaluation


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the command line."""
    parity = subparsers.add_parser(
        "parity", help="compare a drafter with its authors' golden outputs"
    )
    parity.add_argument("directory", metavar="DIR", help="checkpoint with golden rounds")
    parity.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute error")
    parity.set_defaults(run=run_parity)
    train = subparsers.add_parser("train", help="train a DSpark drafter for a target")
    train.add_argument("--target", required=True, help="the target's checkpoint directory")
    train.add_argument(
        "--data", required=True, help="JSON lines of prompt and output, see dspark answers"
    )
    train.add_argument(
        "--output", type=Path, required=True, help="directory of the drafter; resumed when begun"
    )
    train.add_argument("--steps", type=int, default=1200)
    train.add_argument("--layers", type=int, default=2, help="decoder layers of the drafter")
    train.add_argument("--block-size", type=int, default=7, help="draft tokens per block")
    train.add_argument("--markov-rank", type=int, default=64)
    train.add_argument(
        "--target-layers", type=int, nargs="+", required=True, help="whose outputs are features"
    )
    train.add_argument("--batch", type=int, default=8, help="sequences per step")
    train.add_argument("--anchors", type=int, default=32, help="blocks per sequence and step")
    train.add_argument("--max-tokens", type=int, default=512, help="longer sequences are cut")
    train.add_argument("--learning-rate", type=float, default=2e-3)
    train.add_argument("--held-out", type=int, default=192, help="rows for evaluation only")
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    train.add_argument("--checkpoint-every", type=int, default=50, help="steps")
    train.set_defaults(run=run_train)
    evaluation.register(subparsers)


def run_parity(args: argparse.Namespace) -> int:
    """0: within the tolerance; 1: not; 2: the directory cannot be compared."""
    # Imported here, as torch is slow to import and other commands do without it.
    from drafters.errors import CheckpointError
    from drafters.parity import measure_parity

    try:
        report = measure_parity(args.directory)
    except CheckpointError as error:
        print(f"dspark parity: {error}", file=sys.stderr)
        return 2
    for kind, error_size in report.max_errors.items():
        unit = "differ" if kind == "tokens" else "largest absolute error"
        print(f"{kind:18} {error_size:.3g} {unit}")
    agrees = report.within(args.tolerance)
    verdict = "agrees" if agrees else "DISAGREES"
    print(f"{verdict} over {report.num_rounds} rounds, tolerance {args.tolerance:g}")
    return 0 if agrees else 1


def run_train(args: argparse.Namespace) -> int:
    """0: trained; 2: target, data or output cannot be used, with the reason."""
    import torch

    from drafters.errors import CheckpointError
    from drafters.training import TrainingPlan, train

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    plan = TrainingPlan(
        target_dir=args.target,
        data=args.data,
        steps=args.steps,
        num_layers=args.layers,
        block_size=args.block_size,
        markov_rank=args.markov_rank,
        target_layer_ids=tuple(args.target_layers),
        batch_size=args.batch,
        num_anchors=args.anchors,
        max_tokens=args.max_tokens,
        learning_rate=args.learning_rate,
        held_out=args.held_out,
        seed=args.seed,
    )
    try:
        train(
            plan,
            args.output,
            checkpoint_every=args.checkpoint_every,
            report=lambda line: print(line, flush=True),
        )
    except (CheckpointError, ValueError, OSError) as error:
        print(f"dspark train: {error}", file=sys.stderr)
        return 2
    return 0
