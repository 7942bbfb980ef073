"""`dspark doctor` and `dspark bundle`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the `dspark` parser."""
    doctor = subparsers.add_parser(
        "doctor",
        help="what is wrong with this machine, cluster or service, and how to mend it",
        description="Look at driver, memory, RoCE, clocks, disks, versions and Ray's token of "
        "this machine (--ray: of every node), and with --url at a service, by a real completion. "
        "The key is taken from OPENAI_API_KEY. Exit status: 1 where something is broken.",
        epilog="ssh spark-b dspark doctor --collect > b.json; "
        "dspark doctor --collect > a.json; dspark doctor --evidence a.json b.json",
    )
    _add_sources(doctor)
    doctor.add_argument(
        "--evidence", type=Path, nargs="+", default=(), metavar="FILE", help="examine these instead"
    )
    doctor.add_argument("--collect", action="store_true", help="print evidence, examine nothing")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.add_argument("--mtu", type=int, default=9000, help="least, of RoCE interfaces")
    doctor.add_argument(
        "--min-available-gib",
        type=float,
        default=100.0,
        help="memory to be free before a start, where GPU and processor share it",
    )
    doctor.set_defaults(run=_doctor)

    bundle = subparsers.add_parser(
        "bundle",
        help="redacted evidence for a bug report, in one file",
        description="Put what the doctor sees and says, versions, the Serve file, the fleet and "
        "the last lines of Ray's and Serve's logs into a tar.gz. Secrets, keys, addresses, names "
        "of users and the text of requests are replaced; read it before you send it.",
    )
    _add_sources(bundle)
    bundle.add_argument("--output", type=Path, default=Path("dspark-bundle.tar.gz"))
    bundle.add_argument(
        "--logs",
        type=Path,
        default=Path("/tmp/ray/session_latest/logs"),
        help="directory of Ray's logs on this machine",
    )
    bundle.set_defaults(run=_bundle)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ray", action="store_true", help="every node of the running Ray cluster")
    parser.add_argument("--url", help="of a service, asked for a completion")
    parser.add_argument("--model", help="the model to ask it for (default: one that drafts)")
    parser.add_argument("--config", type=Path, help="a Serve file: do drafter and target fit?")


def _doctor(args: argparse.Namespace) -> int:
    """0: nothing broken; 1: something is; 2: nothing could be examined, with the reason."""
    from cluster.doctor import EvidenceError, Expected, as_json, as_text, is_broken
    from cluster.doctor.ray_nodes import ClusterError
    from deployments.diagnosis.doctor import Asked, collect, diagnose

    try:
        evidence = collect(Asked(tuple(args.evidence), args.ray, args.url, args.model))
    except (EvidenceError, ClusterError, OSError) as error:
        print(f"dspark doctor: {error}", file=sys.stderr)
        return 2
    if args.collect:
        print(evidence.to_json())
        return 0
    findings = diagnose(evidence, Expected(args.min_available_gib, args.mtu), args.config)
    print(as_json(findings) if args.json else as_text(findings))
    return int(is_broken(findings))


def _bundle(args: argparse.Namespace) -> int:
    """0: written; 2: not, with the reason."""
    from cluster.doctor import EvidenceError
    from cluster.doctor.ray_nodes import ClusterError
    from deployments.diagnosis.bundle import write_bundle
    from deployments.diagnosis.doctor import Asked

    asked = Asked((), args.ray, args.url, args.model)
    try:
        names = write_bundle(args.output, asked, args.config, args.logs)
    except (EvidenceError, ClusterError, OSError) as error:
        print(f"dspark bundle: {error}", file=sys.stderr)
        return 2
    print("\n".join([f"{args.output}: {len(names)} files", *(f"  {name}" for name in names)]))
    return 0
