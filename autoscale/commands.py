"""`dspark calibrate`: temperatures for a drafter. `dspark simulate`: policies side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from profiles.roofline import MACHINES


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    calibrate = subparsers.add_parser(
        "calibrate",
        help="fit temperatures to a drafter's confidences",
        description="Fit sequential temperature scaling to the outcomes of an evaluation, print "
        "its errors on held-out prompts, and write a calibration profile.",
    )
    calibrate.add_argument("outcomes", type=Path, help="Parquet, see dspark evaluate")
    calibrate.add_argument(
        "--output", type=Path, required=True, help="the profile; an older one is replaced"
    )
    calibrate.add_argument(
        "--held-out", type=float, default=0.3, help="share of prompts that are not fitted on"
    )
    calibrate.add_argument(
        "--override",
        nargs="+",
        default=[],
        metavar="KEY",
        help="keys in which the profile that is replaced may differ, as drafter_version",
    )
    calibrate.set_defaults(run=_calibrate)

    simulate = subparsers.add_parser(
        "simulate",
        help="policies side by side in a simulated fleet",
        description="Replay load on step-cost profiles with the scheduler and the plans that "
        "serve. Ends with 1 where the default policy is more than 1 % below another.",
    )
    simulate.add_argument("--output", type=Path, help="a directory for runs.parquet and report.md")
    simulate.add_argument(
        "--machine",
        choices=sorted(MACHINES),
        default="2x-dgx-spark",
        help="modelled step costs of Qwen3-14B on it",
    )
    simulate.add_argument("--profile", type=Path, help="instead: a profile of dspark profile")
    simulate.add_argument("--regimes", nargs="+", metavar="NAME", help="default: all of them")
    simulate.add_argument("--trace", type=Path, help="instead: replay this load trace, Parquet")
    simulate.add_argument("--replicas", type=int, default=8)
    simulate.add_argument("--seats", type=int, default=64, help="requests of a replica at a time")
    simulate.add_argument("--seeds", type=int, default=5, help="runs of every policy")
    simulate.add_argument("--steps", type=int, default=1000, help="of a run, with every seat taken")
    simulate.add_argument("--workers", type=int, default=1, help="processes")
    simulate.add_argument("--no-ablation", action="store_true", help="leave out the plan's fields")
    simulate.add_argument(
        "--search-weights",
        action="store_true",
        help="instead: laws for the weights of service classes, at loads of 90 to 120 %%",
    )
    simulate.set_defaults(run=_simulate)


def _calibrate(args: argparse.Namespace) -> int:
    """0: written; 2: outcomes or profile cannot be used, with the reason."""
    # Imported here, as Arrow is slow to import and other commands do without it.
    from datetime import UTC, datetime

    from autoscale.calibrate import calibration_table, fit_profile
    from profiles.calibration import load_calibration, save_calibration
    from profiles.outcomes import load_outcomes

    try:
        outcomes, pair, num_candidates = load_outcomes(args.outcomes)
        version = 1
        if args.output.exists():
            version += load_calibration(args.output, pair, args.override).version
        profile = fit_profile(
            outcomes,
            pair,
            held_out=args.held_out,
            measured_on=datetime.now(UTC).date(),
            version=version,
            num_candidates=num_candidates,
        )
        save_calibration(args.output, profile)
    except (ValueError, OSError) as error:
        print(f"dspark calibrate: {error}", file=sys.stderr)
        return 2
    print(calibration_table(profile))
    print(f"version {version} of {args.output}")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    """0: the guardrail holds; 1: it is broken; 2: the profile or a regime cannot be used."""
    from autoscale.simulation.command import simulate

    try:
        return simulate(args)
    except (ValueError, OSError) as error:
        print(f"dspark simulate: {error}", file=sys.stderr)
        return 2
