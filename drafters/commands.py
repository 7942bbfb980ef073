"""The drafter's commands: `dspark parity`."""

from __future__ import annotations

import argparse
import sys


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the command line."""
    parity = subparsers.add_parser(
        "parity", help="compare a drafter with its authors' golden outputs"
    )
    parity.add_argument("directory", metavar="DIR", help="checkpoint with golden rounds")
    parity.add_argument("--tolerance", type=float, default=1e-4, help="largest absolute error")
    parity.set_defaults(run=run_parity)


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
