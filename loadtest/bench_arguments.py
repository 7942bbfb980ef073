"""What `dspark bench` takes from the command line, and what it does where nothing is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from profiles.frontier import Slo

_BENCH_CONFIG = Path("deployments/configs/bench.yaml")
_DEFAULTS: dict[str, Any] = {
    "models": [],
    "policies": ["fixed:3", "fixed:7", "causal"],
    "concurrency": [1, 2, 4, 8, 16, 32],
    "rounds": 3,
    "max_tokens": 128,
}
_QUICK: dict[str, Any] = {
    "models": ["off", "colocated"],
    "policies": ["causal"],
    "concurrency": [1, 4, 16],
    "rounds": 2,
    "max_tokens": 64,
}


def add_bench(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    run: Callable[[argparse.Namespace], int],
) -> None:
    """Add the command to the `dspark` parser."""
    bench = subparsers.add_parser(
        "bench", help="throughput against latency: arms, load points, frontiers, a report"
    )
    bench.add_argument(
        "--config",
        type=Path,
        default=_BENCH_CONFIG,
        help="a Serve file; its first model is compared with",
    )
    what = bench.add_argument_group("arms")
    what.add_argument("--models", nargs="+", help="of the file; default: all")
    what.add_argument(
        "--policies",
        nargs="+",
        metavar="[MODEL=]POLICY",
        help="every model that drafts is an arm with each of these, one that is named "
        "(mtp=fixed:1,causal) with its own instead; local is causal without the fleet's plan"
        f"{_default('policies')}",
    )
    what.add_argument(
        "--peers",
        nargs="+",
        default=[],
        help="vllm, vllm-ngram, vllm-draft-model, ray-serve-llm, llama-cpp",
    )
    what.add_argument(
        "--draft-model",
        type=Path,
        metavar="DIR",
        help="a small model of the target's vocabulary, for the peer vllm-draft-model",
    )
    what.add_argument(
        "--endpoint",
        nargs="+",
        default=[],
        metavar="NAME=URL#MODEL",
        help="servers that run already; their key in DSPARK_BENCH_API_KEY",
    )
    what.add_argument("--without-dspark", action="store_true", help="peers and endpoints alone")
    what.add_argument(
        "--apart",
        action="store_true",
        help="serve the models one after the other; arms of different ones then take no turns",
    )
    load = bench.add_argument_group("load")
    load.add_argument(
        "--concurrency",
        type=int,
        nargs="*",
        help=f"clients of closed loops{_default('concurrency')}",
    )
    load.add_argument(
        "--open",
        nargs="+",
        default=[],
        metavar="KIND:RATE",
        help="open loops: poisson:2.5, bursts:2.5, ramp:4 (requests per second), trace:FILE",
    )
    load.add_argument("--duration-s", type=float, default=60.0, help="of an open loop")
    load.add_argument("--prompts", type=Path, help="a directory of JSONL; default: the bundled")
    load.add_argument("--mix", nargs="+", default=[], metavar="DOMAIN=N", help="default: evenly")
    load.add_argument("--turns", type=int, default=1, help="of a conversation, at most")
    load.add_argument(
        "--context-tokens",
        type=int,
        nargs="+",
        default=[],
        help="fill prompts up to about this length, clipped to the model's",
    )
    load.add_argument("--max-tokens", type=int, help=f"of an answer{_default('max_tokens')}")
    load.add_argument("--temperature", type=float, default=0.0)
    load.add_argument("--seed", type=int, default=0, help="of the prompts' order and of arrivals")
    load.add_argument("--stall-s", type=float, default=60.0, help="without a byte: a failure")
    how = bench.add_argument_group("how")
    how.add_argument(
        "--rounds",
        type=int,
        help=f"runs per arm and load, taking turns{_default('rounds')}",
    )
    how.add_argument("--visits", type=int, default=1, help="times that every server is started")
    how.add_argument(
        "--quick",
        action="store_true",
        help="a look within five minutes: fewer models, policies, loads, rounds and tokens, but "
        "for those that are given",
    )
    how.add_argument(
        "--divergence",
        type=int,
        default=0,
        metavar="PROMPTS",
        help="after an arm's runs also ask so many prompts greedily and report where its outputs "
        "part from the first arm's; default: none",
    )
    how.add_argument("--port", type=int, default=8123, help="peers take the ones that follow")
    how.add_argument(
        "--output",
        type=Path,
        default=Path("bench"),
        help="results and report; what is there already is not measured again",
    )
    how.add_argument(
        "--slo", type=_slo, default="1000:50", metavar="TTFT:TPOT", help="in ms; default 1000:50"
    )
    how.add_argument(
        "--reference",
        nargs="+",
        default=[],
        metavar="ARM",
        help="compare with these arms, each as tables name it ('mtp fixed 1'): users' speeds at "
        "matched throughput with all of them, throughput with the first; default: the first arm",
    )
    how.add_argument(
        "--compare", type=Path, nargs=2, metavar=("A", "B"), help="measure nothing: B beside A"
    )
    bench.set_defaults(run=run)


def _slo(text: str) -> Slo:
    ttft_ms, tpot_ms = map(float, text.split(":"))
    return Slo(ttft_ms / 1000, tpot_ms / 1000)


def fill_in(args: argparse.Namespace) -> None:
    """What the user left open, so that `--quick` changes nothing that was said."""
    defaults = _DEFAULTS | (_QUICK if args.quick else {})
    if args.config != _BENCH_CONFIG:
        defaults |= {"models": []}  # another file has other ones
    for name, value in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if all("=" in policy for policy in args.policies):
        args.policies = [*args.policies, *defaults["policies"]]  # of models that are not named


def _default(name: str) -> str:
    """What `dspark bench` takes where nothing is given, with and without `--quick`."""
    usual, quick = (
        " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for value in (_DEFAULTS[name], _QUICK[name])
    )
    return f"; default: {usual} (--quick: {quick})"
