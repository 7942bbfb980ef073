"""`dspark serve` and `dspark measure`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

_DEMO = Path(__file__).parent / "configs" / "demo.yaml"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    serve = subparsers.add_parser("serve", help="serve an application on this machine")
    serve.add_argument(
        "--config", type=Path, default=_DEMO, help="a Serve file (default: the bundled demo)"
    )
    serve.add_argument("--host", help="address to listen on (default: the file's)")
    serve.add_argument("--port", type=int, help="port to listen on (default: the file's)")
    serve.set_defaults(run=_serve)

    measure = subparsers.add_parser("measure", help="cost of adapter, wire and drafting here")
    measure.add_argument("--config", type=Path, default=_DEMO, help="a Serve file with a drafter")
    measure.add_argument("--threads", type=int, default=1, help="torch threads of the drafter")
    measure.add_argument("--repeats", type=int, default=100)
    measure.set_defaults(run=_measure)


def _serve(args: argparse.Namespace) -> int:
    # vLLM's and Serve's own start-up chatter would bury our progress lines.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.disable(logging.INFO)
    # Imported here so that `dspark --help` does not wait for Ray.
    from cluster.versions import CompatibilityError
    from deployments.errors import ConfigError
    from deployments.foreground import serve_in_foreground

    try:
        return serve_in_foreground(args.config, args.host, args.port)
    except (ConfigError, CompatibilityError) as error:
        print(f"dspark serve: {error}", file=sys.stderr)
        return 2


def _measure(args: argparse.Namespace) -> int:
    from deployments.errors import ConfigError
    from deployments.measure import measure

    try:
        print(measure(args.config, args.threads, args.repeats))
    except ConfigError as error:
        print(f"dspark measure: {error}", file=sys.stderr)
        return 2
    return 0
