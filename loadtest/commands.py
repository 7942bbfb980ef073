"""`dspark bench`: the arms of an application side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    bench = subparsers.add_parser("bench", help="tokens per second, the arms side by side")
    bench.add_argument(
        "--config",
        type=Path,
        default=Path("deployments/configs/bench.yaml"),
        help="a Serve file; its first model is compared with",
    )
    bench.add_argument(
        "--policies",
        nargs="+",
        default=["fixed:3", "fixed:7", "causal"],
        help="every model that drafts is an arm with each of these",
    )
    bench.add_argument("--port", type=int, default=8123)
    bench.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    bench.add_argument("--rounds", type=int, default=3)
    bench.add_argument("--max-tokens", type=int, default=128)
    bench.add_argument("--temperature", type=float, default=0.0)
    bench.add_argument("--output", type=Path, help="also write every run as JSON")
    bench.set_defaults(run=_bench)


def _bench(args: argparse.Namespace) -> int:
    import httpx
    import yaml

    from loadtest.arms import arms_of, parse_policy
    from loadtest.side_by_side import compare, serving, table_header, write_json

    try:
        document = yaml.safe_load(args.config.read_text())
        models = document["applications"][0]["args"]["models"]
        arms = arms_of(models, [parse_policy(text) for text in args.policies])
        with serving(args.config, args.port) as url:
            print(table_header(arms), flush=True)
            cells = compare(
                url,
                arms,
                args.concurrency,
                rounds=args.rounds,
                max_tokens=args.max_tokens,
                temperature=args.temperature,
                progress=lambda line: print(line, flush=True),
            )
    except (OSError, KeyError, ValueError, RuntimeError, httpx.HTTPError) as error:
        print(f"dspark bench: {error}", file=sys.stderr)
        return 1
    if args.output is not None:
        write_json(cells, args.output)
    return 0
