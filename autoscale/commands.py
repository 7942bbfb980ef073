"""`dspark calibrate`: temperatures for a drafter's confidences."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


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


def _calibrate(args: argparse.Namespace) -> int:
    """0: written; 2: outcomes or profile cannot be used, with the reason."""
    # Imported here, as Arrow is slow to import and other commands do without it.
    from datetime import UTC, datetime

    from autoscale.calibrate import calibration_table, fit_profile
    from profiles.calibration import load_calibration, save_calibration
    from profiles.outcomes import load_outcomes

    try:
        outcomes, pair = load_outcomes(args.outcomes)
        version = 1
        if args.output.exists():
            version += load_calibration(args.output, pair, args.override).version
        profile = fit_profile(
            outcomes,
            pair,
            held_out=args.held_out,
            measured_on=datetime.now(UTC).date(),
            version=version,
        )
        save_calibration(args.output, profile)
    except (ValueError, OSError) as error:
        print(f"dspark calibrate: {error}", file=sys.stderr)
        return 2
    print(calibration_table(profile))
    print(f"version {version} of {args.output}")
    return 0
