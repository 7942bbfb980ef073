"""`dspark serve`, `deploy`, `prefetch`, `measure`, `profile`, `generate` and `matrix`."""

from __future__ import annotations

import argparse
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.diagnosis import commands as diagnosis
from deployments.hardware import GENERATIONS
from profiles.roofline import MACHINES

if TYPE_CHECKING:
    from deployments.schema import AppSpec

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

    deploy = subparsers.add_parser(
        "deploy",
        help="deploy a Serve file onto a running cluster, or change what it serves",
        description="As `serve deploy`, from a node of the cluster, and more: settings are checked "
        "here first, targets are replaced without downtime where there is room, downtime is "
        "announced and has to be accepted, and it waits. Where the application does not come up, "
        "it says why and what ran before is put back. Exit status: 0 it runs, 1 it does not, 2 "
        "refused, 3 downtime not accepted.",
    )
    deploy.add_argument("--config", type=Path, required=True, help="a Serve file")
    deploy.add_argument(
        "--accept-downtime",
        action="store_true",
        help="also where a model's only target goes before the next one is up",
    )
    deploy.set_defaults(run=_deploy)

    prefetch = subparsers.add_parser(
        "prefetch", help="fetch a Serve file's checkpoints, so that nodes serve offline"
    )
    prefetch.add_argument("--config", type=Path, required=True, help="a Serve file")
    instead = prefetch.add_mutually_exclusive_group()
    instead.add_argument(
        "--wait", action="store_true", help="fetch nothing; return once it has been done"
    )
    instead.add_argument(
        "--ray",
        action="store_true",
        help="on every node of the running Ray cluster: one fetches, the others get copies",
    )
    prefetch.set_defaults(run=_prefetch)

    measure = subparsers.add_parser(
        "measure", help="cost of schedule, adapter, wire, drafting here"
    )
    measure.add_argument("--config", type=Path, default=_DEMO, help="a Serve file with a drafter")
    measure.add_argument("--threads", type=int, default=1, help="torch threads of the drafter")
    measure.add_argument("--repeats", type=int, default=100)
    measure.add_argument(
        "--model", help="the draft step alone, of this released model's drafter with random weights"
    )
    measure.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="with --model")
    measure.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    measure.add_argument("--sessions", type=int, nargs="+", default=[1, 8, 64], help="with --model")
    measure.add_argument("--context-tokens", type=int, default=512, help="with --model: the window")
    measure.add_argument(
        "--replicas", type=int, help="instead: the controller with so many simulated replicas"
    )
    measure.add_argument(
        "--tracing", action="store_true", help="instead: what tracing takes of a request"
    )
    measure.add_argument(
        "--metrics", action="store_true", help="instead: what publishing takes of a target's time"
    )
    measure.set_defaults(run=_measure)

    profile = subparsers.add_parser(
        "profile",
        help="measure what steps cost on this machine",
        description="Start a model's engine here, measure verifying, prefill and draft steps over "
        "tokens, requests and context, and write a step-cost profile for target.step_cost.",
    )
    profile.add_argument("--config", type=Path, default=_DEMO, help="a Serve file with a drafter")
    profile.add_argument("--output", type=Path, required=True, help="the profile, Parquet")
    profile.add_argument("--steps", type=int, default=8, help="steps of every size, per round")
    profile.add_argument("--rounds", type=int, default=2, help="rounds through all sizes")
    profile.add_argument(
        "--modelled",
        choices=sorted(MACHINES),
        help="instead: compute Qwen3-14B's costs on this machine from data sheets",
    )
    profile.set_defaults(run=_profile)

    generate = subparsers.add_parser(
        "generate", help="let a target answer prompts: the text its drafter is trained on"
    )
    generate.add_argument(
        "--target",
        required=True,
        help="the target's checkpoint directory or hub id[@revision]; with --url its tokenizer "
        "will do",
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
    generate.add_argument(
        "--past-end",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="half of the answers go on past their end, as benchmarks of a fixed length do",
    )
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run=_generate)

    matrix = subparsers.add_parser(
        "matrix", help="which placements of which models work on which GPUs and engine"
    )
    matrix.add_argument("--model", help="one model's rows (default: all)")
    matrix.add_argument("--gpu", choices=GENERATIONS, help="one generation's rows (default: all)")
    matrix.add_argument("--json", action="store_true", help="for programs")
    matrix.set_defaults(run=_matrix)

    diagnosis.register(subparsers)


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


def _deploy(args: argparse.Namespace) -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.disable(logging.INFO)
    from cluster.versions import CompatibilityError
    from deployments.compatibility import accept_software
    from deployments.deploy import deploy
    from deployments.deploy_ray import running_serve
    from deployments.errors import ConfigError
    from deployments.preflight import check_settings
    from deployments.serve_file import check_https, read_serve_file

    try:
        file = read_serve_file(args.config)
        accept_software(model.placement for model in file.settings.launched)
        check_https(file)
        check_settings(file.settings)
        options = file.schema.http_options.model_dump()
        with running_serve(file.schema.proxy_location, options) as cluster:
            say = functools.partial(print, flush=True)
            return deploy(file, cluster, say, accept_downtime=args.accept_downtime)
    except (ConfigError, CompatibilityError) as error:
        print(f"dspark deploy: {error}", file=sys.stderr)
        return 2


def _prefetch(args: argparse.Namespace) -> int:
    from huggingface_hub.constants import HF_HOME

    from deployments.errors import ConfigError
    from deployments.prefetch import prefetch, wait_until_fetched
    from deployments.serve_file import read_serve_file

    def say(line: str) -> None:
        print(line, flush=True)

    try:
        settings = read_serve_file(args.config).settings
        if args.ray:
            return _prefetch_on_all(settings, say)
        act = wait_until_fetched if args.wait else prefetch
        act(settings, Path(HF_HOME), say)
    except (ConfigError, OSError) as error:
        print(f"dspark prefetch: {error}", file=sys.stderr)
        return 2
    return 0


def _prefetch_on_all(settings: AppSpec, say: Callable[[str], None]) -> int:
    """2 where a node is left without a checkpoint. Raises ConfigError."""
    from deployments.prefetch import hub_checkpoints
    from deployments.prefetch_nodes import spread
    from deployments.prefetch_ray import running_cluster

    checkpoints = hub_checkpoints(settings)
    with running_cluster() as nodes:
        faults = spread(checkpoints, nodes, say)
    for fault in faults:
        print(f"dspark prefetch: {fault}", file=sys.stderr)
    return 2 if faults else 0


def _measure(args: argparse.Namespace) -> int:
    import torch

    from deployments.errors import ConfigError
    from deployments.measure import measure, measure_shape
    from deployments.tracing.start import check_installed

    torch.set_num_threads(args.threads)
    try:
        if args.replicas is not None:
            from deployments.measure_fleet import measure_fleet

            print(measure_fleet(args.replicas, args.repeats))
        elif args.metrics:
            from deployments.measure_metrics import measure_metrics

            print(measure_metrics(args.repeats))
        elif args.tracing:
            check_installed()
            from deployments.measure_tracing import measure_tracing

            print(measure_tracing(args.repeats))
        elif args.model is None:
            print(measure(args.config, args.repeats))
        else:
            print(
                measure_shape(
                    args.model,
                    device=args.device,
                    dtype=args.dtype,
                    sessions=args.sessions,
                    num_context_tokens=args.context_tokens,
                    repeats=args.repeats,
                )
            )
    except ConfigError as error:
        print(f"dspark measure: {error}", file=sys.stderr)
        return 2
    return 0


def _profile(args: argparse.Namespace) -> int:
    """0: written; 2: nothing to measure, with the reason."""
    from deployments.errors import ConfigError
    from deployments.profile_command import profile

    try:
        line = profile(args.config, args.output, args.steps, args.rounds, args.modelled)
    except (ConfigError, OSError) as error:
        print(f"dspark profile: {error}", file=sys.stderr)
        return 2
    print(line)
    return 0


def _generate(args: argparse.Namespace) -> int:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from deployments.generation.command import GenerationError, generate
    from deployments.generation.prompts import Generation
    from deployments.generation.served import ServedModel
    from drafters.hub import checkpoint_directory

    options = Generation(
        temperatures=tuple(args.temperatures),
        max_tokens=args.max_tokens,
        max_prompt_tokens=args.max_prompt_tokens,
        rows_per_file=args.rows_per_file,
        limit=args.limit,
        past_end=args.past_end,
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
            str(checkpoint_directory(args.target, weights=served is None)),
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
