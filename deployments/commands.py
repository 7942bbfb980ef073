"""`dspark serve`, `dspark measure`, `dspark generate` and `dspark matrix`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

from deployments.hardware import GENERATIONS

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

    generate = subparsers.add_parser(
        "generate", help="let a target answer prompts: the text its drafter is trained on"
    )
    generate.add_argument(
        "--target", required=True, help="the target's checkpoint, with --url its tokenizer will do"
    )
    generate.add_argument(
        "--prompts", type=Path, nargs="+", required=True, help="JSON lines (.gz or not) of messages"
    )
    generate.add_argument(
        "--output", type=Path, required=True, help="directory of Parquet parts; continued"
    )
    generate.add_argument("--url", help="of a server with the target (default: this process)")
    generate.add_argument("--model", help="its name there, needed with --url")
    generate.add_argument("--concurrency", type=int, default=64, help="requests in flight")
    generate.add_argument("--temperatures", type=float, nargs="+", default=(0.0, 0.7))
    generate.add_argument("--rows-per-file", type=int, default=4000)
    generate.add_argument("--limit", type=int, help="prompts in all")
    generate.add_argument("--max-prompt-tokens", type=int, default=300, help="longer ones are out")
    generate.add_argument("--max-tokens", type=int, default=192, help="output tokens per answer")
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run=_generate)

    matrix = subparsers.add_parser(
        "matrix", help="which placements of which models work on which GPUs and engine"
    )
    matrix.add_argument("--model", help="one model's rows (default: all)")
    matrix.add_argument("--gpu", choices=GENERATIONS, help="one generation's rows (default: all)")
    matrix.add_argument("--json", action="store_true", help="for programs")
    matrix.set_defaults(run=_matrix)


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


def _generate(args: argparse.Namespace) -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from deployments.generation.command import GenerationError, generate
    from deployments.generation.prompts import Generation
    from deployments.generation.served import ServedModel

    options = Generation(
        temperatures=tuple(args.temperatures),
        max_tokens=args.max_tokens,
        max_prompt_tokens=args.max_prompt_tokens,
        rows_per_file=args.rows_per_file,
        limit=args.limit,
        seed=args.seed,
    )
    served = None
    if args.url is not None:
        if args.model is None:
            print("dspark generate: --url needs --model", file=sys.stderr)
            return 2
        key = os.environ.get("OPENAI_API_KEY", "none")
        served = ServedModel(args.url, args.model, key, args.concurrency)
    try:
        generate(
            args.target,
            args.prompts,
            args.output,
            options,
            served,
            lambda line: print(line, flush=True),
        )
    except (OSError, ValueError, GenerationError) as error:
        print(f"dspark generate: {error}", file=sys.stderr)
        return 2
    return 0


def _matrix(args: argparse.Namespace) -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from deployments.matrix_command import matrix

    try:
        print(matrix(args.model, args.gpu, as_json=args.json))
    except ValueError as error:
        print(f"dspark matrix: {error}", file=sys.stderr)
        return 2
    return 0
