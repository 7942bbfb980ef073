"""`dspark bench`: from the command line to results, table and report."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from loadtest.arms import Arm, is_drafted_by_us
from loadtest.arrivals import LoadPoint, parse_load
from loadtest.conversations import bundled, parse_mix, read_conversations
from loadtest.experiment import DRAFT_MODEL, Plan, Progress, Results, run_server
from loadtest.outputs import Outputs, divergences
from loadtest.peers import DRAFTS_WITH_A_MODEL, endpoint_server, peer_server
from loadtest.policies import PolicyChoice
from loadtest.provenance import provenance, served_digest
from loadtest.report.tables import (
    check_references,
    matched_table,
    reference_arms,
    speed_table,
    speeds,
)
from loadtest.servers import Server, dspark_server, running, serve_document
from profiles.frontier import Slo, points

_API_KEY = "DSPARK_BENCH_API_KEY"
_MUST_MATCH = ("hardware", "versions")


def bench(args: argparse.Namespace, argv: Sequence[str]) -> None:
    """Measure, and write results, figures and the page. Raises what a user can mend, of a server
    that fails when the others have been measured."""
    plan = _plan(args)
    settings = _weights(args) | plan.as_metadata()
    results = Results(args.output, provenance(argv) | settings, (*_MUST_MATCH, *settings))
    with _interrupted_by_terminate(), ExitStack() as stack:
        servers = _servers(args, stack)
        check_references(args.reference, [*_known_arms(args, servers), *results.arms()])
        visits = range(1, args.visits + 1)
        left = sum(len(results.left(plan, server, v)) for v in visits for server in servers)
        outputs = Outputs(
            args.output, servers[0].arms[0].name, args.divergence, max_tokens=plan.max_tokens
        )
        progress = Progress(left, _say)
        failed: list[str] = []
        for visit in visits:
            for number, server in enumerate(servers):
                if not (results.left(plan, server, visit) or outputs.lacks(server.arms)):
                    continue
                _say(f"starting {server.description} (visit {visit} of {args.visits})")
                try:
                    with running(server, args.output / "logs" / f"{number}.log") as one:
                        run_server(plan, one, visit, results, progress)
                        outputs.ask(one.server)
                except (RuntimeError, ValueError, httpx.HTTPError) as error:
                    # What the others gave is kept.
                    failed.append(f"{server.description}: {error}")
                    _say(failed[-1])
    results.close()
    if results:
        report(args.output, args.slo, args.reference)
    if failed:
        raise RuntimeError("; ".join(failed))


def report(
    directory: Path, slo: Slo, references: Sequence[str] = (), others: Path | None = None
) -> None:
    """Print the tables of a result; write speeds as JSON too, and a page. Everything is compared
    with those of the `references` that were run, or the first arm; beside `others`, an earlier
    result, what became worse is named in both."""
    from loadtest.report.comparison import compare
    from loadtest.report.page import write_page
    from profiles.load_records import load_load_records

    records = load_load_records(directory)
    if others:
        check_references(references, [run.arm for run in records.runs])
    references = reference_arms(records, references)
    rows = speeds(records, slo, references[0])
    print(speed_table(rows).markdown())
    table = json.dumps([row._asdict() for row in rows], indent=1)
    (directory / "speeds.json").write_text(table + "\n")
    for reference in references:
        print(f"\n{matched_table(records, slo, reference).markdown()}", flush=True)
    before = load_load_records(others) if others else None
    if before is not None:
        findings = compare(points(records, slo), points(before, slo)).findings()
        for title, lines in findings.items():
            print(f"\n{title}:", *lines, sep="\n- ", flush=True)
    page = write_page(directory, records, slo, before, divergences(directory), references)
    _say(f"report: {page}")


def _weights(args: argparse.Namespace) -> dict[str, str]:
    """Digests of what is served: of the Serve file, empty where nothing of it is, and of the
    draft model of a peer."""
    if args.draft_model is not None and DRAFTS_WITH_A_MODEL not in args.peers:
        raise ValueError(f"--draft-model is for the peer {DRAFTS_WITH_A_MODEL}; add it to --peers")
    is_used = bool(args.peers) or not args.without_dspark
    found = {"served": served_digest(serve_document(args.config)) if is_used else ""}
    if args.draft_model is not None:
        found[DRAFT_MODEL] = served_digest({"source": str(args.draft_model)})
    return found


def _plan(args: argparse.Namespace) -> Plan:
    conversations = (
        read_conversations(args.prompts, args.turns) if args.prompts else bundled(args.turns)
    )
    texts = [*(f"closed:{n}" for n in args.concurrency), *args.open]
    return Plan(
        loads=tuple(_loads(texts, args.context_tokens)),
        rounds=args.rounds,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
        seed=args.seed,
        duration_s=args.duration_s,
        stall_s=args.stall_s,
        conversations=tuple(conversations),
        mix=parse_mix(args.mix),
        api_key=os.environ.get(_API_KEY),
    )


def _loads(texts: Sequence[str], contexts: Sequence[int]) -> Iterator[LoadPoint]:
    for context_tokens in contexts or [0]:
        for text in texts:
            yield parse_load(text, context_tokens)


def _target(models: Sequence[Mapping[str, Any]], chosen: Sequence[str]) -> Mapping[str, Any]:
    """What peers are given: of the first model that is measured beside them. Raises ValueError
    where every engine is attached."""
    for model in models:
        if "target" in model and model["id"] in chosen:
            target: Mapping[str, Any] = model["target"]
            return target
    raise ValueError("--peers are given the target of a chosen model; none has one of its own")


def _policies(texts: Sequence[str], models: Sequence[Mapping[str, Any]]) -> PolicyChoice:
    """Raises ValueError for a policy that is none, or of a model that goes by none of ours."""
    choice = PolicyChoice.parse(texts)
    drafted = [str(model["id"]) for model in models if is_drafted_by_us(model)]
    if unknown := [name for name in choice.of_model if name not in drafted]:
        there = ", ".join(drafted) or "none"
        raise ValueError(
            f"--policies names {', '.join(unknown)}; models that go by a policy are {there}"
        )
    return choice


def _servers(args: argparse.Namespace, stack: ExitStack) -> list[Server]:
    """The application of the Serve file (one per model with --apart), peers, endpoints."""
    models = serve_document(args.config)["applications"][0]["args"]["models"]
    chosen = args.models or [model["id"] for model in models]
    groups = [[name] for name in chosen] if args.apart else [chosen]
    policies = _policies(args.policies, models)
    contexts = [
        dspark_server(args.config, group, policies, args.port)
        for group in ([] if args.without_dspark else groups)
    ]
    contexts += [
        peer_server(name, _target(models, chosen), args.port + number, args.draft_model)
        for number, name in enumerate(args.peers, 1)
    ]
    servers = [stack.enter_context(context) for context in contexts]
    servers += [endpoint_server(text) for text in args.endpoint]
    servers = [replace(server, api_key=os.environ.get(_API_KEY)) for server in servers]
    names = [arm.name for server in servers for arm in server.arms]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise ValueError(f"arms need names of their own: {', '.join(twice) or 'there is none'}")
    return servers


def _known_arms(args: argparse.Namespace, servers: Sequence[Server]) -> Iterator[str]:
    """Arms that a result may have: those measured now, and those of models left for later."""
    yield from (arm.name for server in servers for arm in server.arms)
    models = serve_document(args.config)["applications"][0]["args"]["models"]
    yield from (arm.name for arm in Arm.of_models(models, _policies(args.policies, models)))


@contextmanager
def _interrupted_by_terminate() -> Iterator[None]:
    """SIGTERM, and SIGHUP of a terminal that closes, end us as Ctrl-C does: what was started is
    stopped."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
