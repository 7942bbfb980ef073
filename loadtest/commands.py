"""`dspark bench`: arms, load points, frontiers. `dspark scenario`: bad days. `dspark budget`: what
is verified by concurrency. `dspark rounds`: where time goes. `dspark divergence`: outputs side by
side."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from loadtest.bench_arguments import add_bench, fill_in
from loadtest.scenarios import SCENARIOS

_CONFIGS = Path(__file__).parent / "configs"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    add_bench(subparsers, run=_bench)

    scenario = subparsers.add_parser("scenario", help="bad days: promises kept, arm by arm")
    scenario.add_argument("name", choices=sorted(SCENARIOS))
    scenario.add_argument(
        "--arms",
        nargs="+",
        metavar="NAME=FILE",
        help="Serve files, each with one application; the last one's capacity is the measure "
        "(default: ours, and what the scenario compares it with)",
    )
    scenario.add_argument("--ttft", type=float, default=2.0, help="promised, in seconds")
    scenario.add_argument("--tpot", type=float, default=0.1, help="promised, in seconds")
    scenario.add_argument("--rounds", type=int, default=3)
    scenario.add_argument("--capacity", type=float, help="requests per second, instead of measured")
    scenario.add_argument(
        "--together",
        action="store_true",
        help="keep all arms' servers up, so that their turns follow each other closely, instead "
        "of one at a time",
    )
    scenario.add_argument(
        "--port", type=int, default=8124, help="together, one for each arm from it on"
    )
    scenario.add_argument("--output", type=Path, help="also write every run as JSON")
    scenario.add_argument(
        "--logs",
        type=Path,
        default=Path("scenario-logs"),
        help="directory of what servers print and of each request's times",
    )
    scenario.set_defaults(run=_scenario)
    budget = subparsers.add_parser(
        "budget", help="draft tokens verified per request, by concurrency, on a running server"
    )
    budget.add_argument("--url", default="http://127.0.0.1:8000", help="a running server")
    budget.add_argument("--model", default="demo")
    budget.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    budget.add_argument("--rounds", type=int, default=3, help="requests of every client")
    budget.add_argument("--max-tokens", type=int, default=128)
    budget.add_argument("--output", type=Path, help="also a picture (.png) or the numbers (.json)")
    budget.set_defaults(run=_budget)

    rounds = subparsers.add_parser(
        "rounds", help="where the time of a round goes, on a running server"
    )
    rounds.add_argument("--url", default="http://127.0.0.1:8000", help="a running server")
    rounds.add_argument("--models", nargs="+", default=["demo"], help="they take turns")
    rounds.add_argument("--prompts", type=int, default=6, help="per run, one after the other")
    rounds.add_argument("--max-tokens", type=int, default=128)
    rounds.add_argument("--runs", type=_positive, default=5, help="of each model, for the medians")
    rounds.set_defaults(run=_rounds)

    divergence = subparsers.add_parser(
        "divergence", help="where greedy outputs part from those without speculation"
    )
    divergence.add_argument("--url", default="http://127.0.0.1:8000", help="a running server")
    divergence.add_argument("--reference", required=True, help="the model without speculation")
    divergence.add_argument("--models", nargs="+", required=True, help="the models to compare")
    divergence.add_argument("--prompts", type=int, default=60, help="how many, of mixed domains")
    divergence.add_argument("--max-tokens", type=int, default=128)
    divergence.add_argument("--concurrency", type=int, default=8)
    divergence.add_argument(
        "--control", type=int, default=3, help="concurrency at which the reference is asked again"
    )
    divergence.add_argument(
        "--max-margin",
        type=float,
        help="end with 2 where a model parts at a wider top-2 margin, in nats",
    )
    divergence.set_defaults(run=_divergence)

    first = subparsers.add_parser("first-token", help="time to the first token, servers in turn")
    first.add_argument("servers", nargs="+", metavar="NAME=URL", help="the first is compared with")
    first.add_argument("--max-tokens", type=int, default=32)
    first.add_argument("--concurrency", type=int, default=16, help="for the throughput")
    first.add_argument(
        "--pids",
        nargs="+",
        default=[],
        metavar="NAME=PID",
        help="what started a server, here: its processes' time per token is told too",
    )
    first.set_defaults(run=_first_token)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not 1 or more")
    return number


def _bench(args: argparse.Namespace) -> int:
    """0: measured; 1: what a user can mend; 130: interrupted, to be gone on with."""
    import httpx

    from loadtest.bench_command import bench, report

    fill_in(args)
    try:
        if args.compare:
            before, after = args.compare
            report(after, args.slo, args.reference, before)
        else:
            bench(args, sys.argv[1:])
    except (OSError, KeyError, ValueError, RuntimeError, httpx.HTTPError) as error:
        print(f"dspark bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"dspark bench: stopped; the same command goes on in {args.output}", file=sys.stderr)
        return 130
    return 0


def _scenario(args: argparse.Namespace) -> int:
    """0: ran; 1: an arm that does not come up or is no arm."""
    import httpx

    from loadtest.promises import Promise, table_header, table_row
    from loadtest.scenario_run import ServedArm, run_scenario, write_json

    scenario = SCENARIOS[args.name]
    # Whatever ends it, the server that it started ends too.
    signal.signal(signal.SIGTERM, lambda signum, _: sys.exit(128 + signum))
    try:
        if args.arms is None:
            served = (("dspark", "promises.yaml"), *scenario.beside)
            args.arms = [f"{name}={_CONFIGS}/{file}" for name, file in served]
        arms = [ServedArm.parse(text) for text in args.arms]
        print(f"{scenario.what}\n\n{table_header('arm, round')}", flush=True)
        runs = run_scenario(
            scenario,
            arms,
            Promise(args.ttft, args.tpot),
            port=args.port,
            rounds=args.rounds,
            capacity_per_s=args.capacity,
            logs=args.logs,
            together=args.together,
            progress=lambda run: print(
                table_row(f"{run.arm}, {run.round + 1}", run.summary), flush=True
            ),
        )
    except (OSError, KeyError, ValueError, RuntimeError, httpx.HTTPError) as error:
        print(f"dspark scenario: {error}", file=sys.stderr)
        return 1
    print(f"\ncapacity: {runs[0].capacity_per_s:.1f} requests per second")
    if args.output is not None:
        write_json(runs, args.output)
    return 0


def _budget(args: argparse.Namespace) -> int:
    """0: measured; 1: a server that refuses, is not there, or does not draft."""
    import time

    import httpx

    from loadtest.budget import measure_budgets, save_budgets, table_header

    try:
        print(table_header(), flush=True)
        points = measure_budgets(
            args.url,
            args.model,
            args.concurrency,
            max_tokens=args.max_tokens,
            rounds=args.rounds,
            sleep=time.sleep,
            progress=lambda line: print(line, flush=True),
        )
        if args.output is not None:
            save_budgets(points, args.output)
    except (OSError, ValueError, httpx.HTTPError) as error:
        print(f"dspark budget: {error}", file=sys.stderr)
        return 1
    return 0


def _rounds(args: argparse.Namespace) -> int:
    """0: measured; 1: a server that refuses or is not there."""
    import time

    import httpx

    from loadtest.rounds import measure_rounds, table

    try:
        found = measure_rounds(
            args.url,
            args.models,
            num_prompts=args.prompts,
            max_tokens=args.max_tokens,
            runs=args.runs,
            sleep=time.sleep,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (RuntimeError, ValueError, httpx.HTTPError) as error:
        print(f"dspark rounds: {error}", file=sys.stderr)
        return 1
    print(table(found))
    return 0


def _divergence(args: argparse.Namespace) -> int:
    """0: compared; 1: a server that refuses or is not there; 2: parted beyond --max-margin."""
    import httpx

    from loadtest.divergence import compare_traces, format_report, greedy_traces
    from loadtest.prompts import mixed_prompts

    prompts = mixed_prompts(args.prompts)

    def ask(model: str, concurrency: int, *, margins: bool = False) -> list[Any]:
        return greedy_traces(
            args.url,
            model,
            prompts,
            max_tokens=args.max_tokens,
            concurrency=concurrency,
            with_margins=margins,
        )

    try:
        reference = ask(args.reference, args.concurrency, margins=True)
        arms = [(f"{args.reference} at {args.control} (control)", args.reference, args.control)]
        arms += [
            (f"{model} at {args.concurrency}", model, args.concurrency) for model in args.models
        ]
        reports = [compare_traces(name, reference, ask(model, c)) for name, model, c in arms]
    except (ValueError, httpx.HTTPError) as error:
        print(f"dspark divergence: {error}", file=sys.stderr)
        return 1
    print(format_report(reports))
    widest = max(report.widest_margin for report in reports[1:])  # behind the control
    return 2 if args.max_margin is not None and widest > args.max_margin else 0


def _first_token(args: argparse.Namespace) -> int:
    """0: measured; 1: a server that refuses or is not there."""
    import httpx
    import psutil

    from loadtest.first_token import side_by_side, table
    from loadtest.prompts import PROMPTS

    try:
        servers = dict(server.split("=", 1) for server in args.servers)
        roots = {name: int(pid) for name, pid in (one.split("=", 1) for one in args.pids)}
        if unknown := roots.keys() - servers.keys():
            raise ValueError(f"--pids names {', '.join(sorted(unknown))}, which is no server here")
        times = side_by_side(
            servers,
            PROMPTS,
            max_tokens=args.max_tokens,
            concurrency=args.concurrency,
            roots=roots,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
    except (ValueError, psutil.NoSuchProcess, httpx.HTTPError) as error:
        print(f"dspark first-token: {error}", file=sys.stderr)
        return 1
    print(table(times))
    return 0
