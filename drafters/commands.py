"""The drafter's commands: `dspark parity`, `train`, `evaluate` and `confidence`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from drafters.evaluation import commands as evaluation

TRAINED_KINDS = ("dspark", "dflash", "eagle3", "mtp")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the command line."""
    parity = subparsers.add_parser(
        "parity", help="compare a drafter with its authors' golden outputs"
    )
    parity.add_argument("directory", metavar="DIR", help="checkpoint with golden rounds")
    parity.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute error")
    parity.set_defaults(run=run_parity)
    _register_train(subparsers.add_parser("train", help="train a drafter for a target"))
    evaluation.register(subparsers)
    confidence = subparsers.add_parser(
        "confidence", help="fit confidences of a drafter that has no head for them"
    )
    confidence.add_argument(
        "directory",
        type=Path,
        metavar="DRAFTER",
        help="gets confidence.json; or: ngram, whose fit is printed for the Serve file",
    )
    confidence.add_argument("outcomes", type=Path, help="Parquet, see dspark evaluate")
    confidence.set_defaults(run=run_confidence)


def _register_train(train: argparse.ArgumentParser) -> None:
    """Settings have no defaults here: those of the file, or of `TrainingSettings`, stand."""
    train.add_argument("--config", help="a training file, or the name of a bundled one (demo)")
    train.add_argument("--data", help="answers of the target, see dspark generate")
    train.add_argument(
        "--copy-data",
        action="store_true",
        help="train on a copy kept in --output: for a directory that changes, as one of served "
        "traffic does",
    )
    train.add_argument("--output", type=Path, help="directory of the drafter; resumed when begun")
    train.add_argument(
        "--estimate", action="store_true", help="say what it would cost and bring, and stop"
    )
    train.add_argument("--checkpoint-every", type=int, default=50, help="steps")
    train.add_argument("--feature-cache", type=Path, help="keep the target's states there")
    train.add_argument("--workers", type=int, help="train on Ray with so many")
    train.add_argument(
        "--use-gpu", action=argparse.BooleanOptionalAction, help="a GPU per worker of --workers"
    )
    train.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    settings = train.add_argument_group("settings, over those of --config")
    settings.add_argument(
        "--target", help="the target's checkpoint directory, or hub id[@revision]"
    )
    settings.add_argument("--revision", help="of a target on the hub (default: its newest)")
    settings.add_argument("--kind", choices=TRAINED_KINDS, help="of drafter (default: dspark)")
    settings.add_argument(
        "--start-from", help="a trained drafter, directory or hub id[@revision], to go on from"
    )
    settings.add_argument("--steps", type=int)
    settings.add_argument("--epochs", type=float, help="instead of steps")
    settings.add_argument("--layers", type=int, dest="num_layers", help="of the drafter")
    settings.add_argument("--block-size", type=int, help="draft tokens (default: 7; mtp: 1)")
    settings.add_argument("--markov-rank", type=int)
    settings.add_argument("--markov-head", dest="markov_head_type", help="vanilla, gated or rnn")
    settings.add_argument(
        "--target-layers", type=int, nargs="+", help="whose outputs are features (mtp: the last)"
    )
    settings.add_argument("--batch", type=int, dest="batch_size", help="sequences per step")
    settings.add_argument("--micro-batch", type=int, help="sequences at a time in a worker")
    settings.add_argument(
        "--anchors", type=int, dest="num_anchors", help="blocks per sequence and step"
    )
    settings.add_argument("--anchor-span", type=int, help="tokens a sequence's anchors lie within")
    settings.add_argument("--context-tokens", type=int, help="seen by the drafter before an anchor")
    settings.add_argument("--max-tokens", type=int, help="longer sequences are cut")
    settings.add_argument(
        "--position-decay",
        type=float,
        help="positions count exp(-(k-1) / this) (default: the block size)",
    )
    settings.add_argument(
        "--cross-entropy-share",
        type=float,
        help="dspark: of the losses over tokens, L1 having the rest (default: 0.1)",
    )
    settings.add_argument("--learning-rate", type=float)
    settings.add_argument("--held-out", type=int, help="rows for evaluation only")
    settings.add_argument("--evaluate-every", type=int, help="steps between held-out evaluations")
    settings.add_argument("--patience", type=int, help="evaluations without gain that end it")
    settings.add_argument("--precision", choices=("auto", "bf16", "float32"))
    settings.add_argument("--seed", type=int)
    train.set_defaults(run=run_train)


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
    """0: done; 2: settings, target or data cannot be used; 3: interrupted, to be resumed."""
    from drafters.errors import CheckpointError
    from drafters.training.command import run

    try:
        return 0 if run(args) else 3
    except (CheckpointError, ValueError, OSError) as error:
        print(f"dspark train: {error}", file=sys.stderr)
        return 2


def run_confidence(args: argparse.Namespace) -> int:
    """0: written; 2: the drafter or the outcomes cannot be used, with the reason."""
    from drafters.confidence_fit import fit_from_outcomes, fit_ngram
    from drafters.errors import CheckpointError
    from profiles.provenance import NGRAM

    try:
        if str(args.directory) == NGRAM:
            print(f"drafter: {{ngram: {{confidence_by_match: {[*fit_ngram(args.outcomes)]}}}}}")
            return 0
        fitted = fit_from_outcomes(args.directory, args.outcomes)
    except (CheckpointError, ValueError, OSError) as error:
        print(f"dspark confidence: {error}", file=sys.stderr)
        return 2
    for k, (scale, offset) in enumerate(zip(fitted.scale, fitted.offset, strict=True), start=1):
        print(f"position {k}: sigmoid({scale:.3f} * log-odds + {offset:.3f})")
    print(f"wrote {args.directory}/confidence.json; evaluate again before dspark calibrate")
    return 0
