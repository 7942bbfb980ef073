"""The arguments of `dspark evaluate`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the `dspark` parser."""
    evaluate = subparsers.add_parser(
        "evaluate",
        help="acceptance length of a drafter on benchmarks",
        description="Let a target answer benchmark prompts, verify a drafter's drafts of it, and "
        "report acceptance length by benchmark, position, context and turn. The output directory "
        "gets a report, Parquet that `dspark calibrate` reads, and pictures; an interrupted "
        "evaluation goes on where it stopped, at the cost of one chunk.",
    )
    evaluate.add_argument("--target", help="checkpoint directory, or hub id[@revision]")
    evaluate.add_argument("--drafter", help="the same, or: ngram")
    evaluate.add_argument(
        "--url",
        help="a running service instead of --target and --drafter; it has to be idle, and its "
        "key, an admin's where there is --policy, in OPENAI_API_KEY",
    )
    evaluate.add_argument("--model", help="of the service")
    evaluate.add_argument(
        "--policy",
        metavar="YAML",
        help="that the service verifies by meanwhile, as {kind: fixed, k: 7} (default: its own)",
    )
    evaluate.add_argument(
        "--benchmarks", type=Path, required=True, help="directory of JSON lines, one benchmark each"
    )
    evaluate.add_argument(
        "--output", type=Path, required=True, help="directory, continued if begun"
    )
    evaluate.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these benchmarks")
    evaluate.add_argument("--prompts", type=int, default=40, help="of each benchmark, at most")
    evaluate.add_argument(
        "--chains",
        type=int,
        help="hold each benchmark's prompts one after the other, as this many long "
        "conversations: what late context positions are measured with",
    )
    evaluate.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    evaluate.add_argument(
        "--thinking",
        nargs="+",
        choices=("on", "off", "none"),
        help="default: off and on where the chat template has it; with --url, none: as the "
        "served template does by itself",
    )
    evaluate.add_argument("--max-output-tokens", type=int, default=128, help="of each answer")
    evaluate.add_argument("--max-tokens", type=int, help="of a conversation (default: the model's)")
    evaluate.add_argument(
        "--window", type=int, help="context tokens the drafter sees (default: all)"
    )
    evaluate.add_argument(
        "--candidates",
        type=int,
        default=32,
        help="how many of the likeliest tokens sampled draft tokens are drawn from",
    )
    evaluate.add_argument(
        "--seats",
        type=int,
        default=32,
        help="conversations held at a time, halved until their K/V fits into memory",
    )
    evaluate.add_argument("--chunk", type=int, default=96, help="conversations between two writes")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument(
        "--dtype", choices=_DTYPES, help="of the target (default: float32 on cpu, else bfloat16)"
    )
    evaluate.add_argument(
        "--drafter-dtype",
        choices=_DTYPES,
        help="default: bfloat16 where the device multiplies it at full speed, else float32",
    )
    evaluate.add_argument("--device", default="cpu", help="as torch names it")
    evaluate.add_argument("--threads", type=int, help="torch threads (default: torch's own)")
    evaluate.add_argument("--ngram-block-size", type=int, default=7, help="tokens of its drafts")
    unread = {name: evaluate.get_default(name) for name in _OFFLINE_ONLY}
    evaluate.set_defaults(run=partial(_evaluate, unread))


# What a running service decides for itself.
_OFFLINE_ONLY = (
    *("max_tokens", "window", "candidates", "chunk", "seed"),
    *("dtype", "drafter_dtype", "device", "threads", "ngram_block_size"),
)
_DTYPES = ("float32", "bfloat16", "float16")


def _evaluate(unread_online: Mapping[str, Any], args: argparse.Namespace) -> int:
    """0: evaluated; 2: something given cannot be used, with the reason.

    `unread_online` are the defaults of what has no meaning with --url.
    """
    is_offline = args.target is not None and args.drafter is not None
    is_online = args.url is not None and args.model is not None
    if is_offline == is_online:
        print(
            "dspark evaluate: needed is either --target and --drafter or --url and --model",
            file=sys.stderr,
        )
        return 2
    given = [name for name, default in unread_online.items() if getattr(args, name) != default]
    if is_online and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        print(
            f"dspark evaluate: {names}: not with --url, the service decides that for itself; "
            "leave it out, or evaluate --target and --drafter",
            file=sys.stderr,
        )
        return 2
    if is_offline and args.policy is not None:
        print(
            "dspark evaluate: --policy: only with --url; without a service every draft is "
            "verified whole",
            file=sys.stderr,
        )
        return 2
    return _offline(args) if is_offline else _online(args)


def _offline(args: argparse.Namespace) -> int:
    # Imported here, as torch is slow to import and other commands do without it.
    import torch

    from drafters.errors import CheckpointError
    from drafters.evaluation.command import OfflineSettings, evaluate_offline
    from drafters.hub import checkpoint_directory
    from profiles.provenance import NGRAM

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    try:
        settings = OfflineSettings(
            target=checkpoint_directory(args.target),
            drafter=NGRAM if args.drafter == NGRAM else str(checkpoint_directory(args.drafter)),
            benchmarks=args.benchmarks,
            only=tuple(args.only),
            prompts=args.prompts,
            chains=args.chains,
            temperatures=tuple(args.temperatures),
            thinking=tuple(args.thinking) if args.thinking else None,
            max_output_tokens=args.max_output_tokens,
            max_tokens=args.max_tokens,
            window=args.window,
            num_candidates=args.candidates,
            num_seats=args.seats,
            chunk_size=args.chunk,
            seed=args.seed,
            dtype=args.dtype,
            drafter_dtype=args.drafter_dtype,
            device=args.device,
            ngram_block_size=args.ngram_block_size,
        )
        report = evaluate_offline(settings, args.output, lambda line: print(line, flush=True))
    except (CheckpointError, ValueError, OSError) as error:
        print(f"dspark evaluate: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0


def _online(args: argparse.Namespace) -> int:
    import httpx
    import yaml

    from drafters.evaluation.benchmarks import chained, read_benchmarks, spread
    from drafters.evaluation.chat import Thinking
    from drafters.evaluation.online import OnlinePlan, evaluate_online
    from drafters.evaluation.plan import Mode, described
    from drafters.evaluation.served import ServedModel

    served = ServedModel(
        args.url,
        args.model,
        max_output_tokens=args.max_output_tokens,
        concurrency=args.seats,
        api_key=os.environ.get("OPENAI_API_KEY"),
    )
    try:
        policy = None if args.policy is None else yaml.safe_load(args.policy)
        benchmarks = read_benchmarks(args.benchmarks, args.only)
        switches: list[Thinking] = args.thinking or ["none"]
        chosen = {name: spread(some, args.prompts) for name, some in benchmarks.items()}
        if args.chains is not None:
            chosen = {name: chained(some, args.chains) for name, some in chosen.items()}
        plan = OnlinePlan(
            chosen,
            tuple(Mode(t, s) for t in args.temperatures for s in switches),
            policy,
        )
        metadata = {
            "model_id": args.model,
            "policy": args.policy or "the model's own",
            **served.versions(),
            **described(plan.benchmarks),
            "max_output_tokens": str(args.max_output_tokens),
            "concurrency": str(args.seats),
        }
        report = evaluate_online(
            served, plan, args.output, metadata, lambda line: print(line, flush=True)
        )
    except (ValueError, OSError, yaml.YAMLError, httpx.HTTPError) as error:
        print(f"dspark evaluate: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0
