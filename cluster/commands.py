"""`dspark status` shows a fleet, `dspark set` changes a model while it serves, `dspark canary`
tries a drafter on it, `dspark launcher` makes a cluster file for `ray up`, `dspark dashboards`
brings dashboards and alerts to where they are used."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Any


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    change = subparsers.add_parser(
        "set",
        help="change a model while it serves",
        description="Change a model while it serves, without a restart. Keys: speculation, "
        "policy, max_draft_tokens, verify_budget_tokens, deadline_ms, drafter_address, plan. "
        "`key=null` goes back to the Serve file's setting.",
        epilog="dspark set demo speculation=off; dspark set demo 'policy={kind: fixed, k: 3}'",
    )
    change.add_argument("model", help="the model's id")
    change.add_argument("changes", nargs="+", metavar="KEY=VALUE", help="values as in YAML")
    change.add_argument("--url", default="http://127.0.0.1:8000", help="where it is served")
    change.set_defaults(run=_set)

    status = subparsers.add_parser(
        "status",
        help="load, plan and learning of every replica",
        description="One line per replica: its load, the plan it holds and how old that is, draft "
        "tokens per request (budget), tokens accepted per draft beside what calibrated "
        "confidences said, and how far steps are from their expected cost.",
    )
    status.add_argument("--url", default="http://127.0.0.1:8000", help="where it is served")
    status.set_defaults(run=_status)

    canary = subparsers.add_parser(
        "canary",
        help="try a new drafter on a share of the sessions",
        description="Start a new drafter beside the serving one, give it a share of the new "
        "sessions, and compare acceptance length, calibration and speed, with intervals of three "
        "standard errors, until one is surely the better choice. Targets are left as they are. "
        "Exit status: 0 promoted, 3 rolled back.",
    )
    canary.add_argument("drafter", nargs="?", help="checkpoint directory or hub id")
    canary.add_argument("--model", help="the model's id (default: the only one)")
    canary.add_argument("--share", type=share, default=0.05, help="of the sessions, as 5%% or 0.05")
    canary.add_argument("--replicas", type=int, help="of the new drafter (default: as serve now)")
    canary.add_argument(
        "--margin", type=share, default=0.02, help="a loss of speed that is taken for none"
    )
    canary.add_argument(
        "--ece-margin", type=share, default=0.03, help="a rise of the ECE that is taken for none"
    )
    canary.add_argument(
        "--patience", type=float, default=3600.0, help="seconds until it is rolled back unproven"
    )
    canary.add_argument("--stop", action="store_true", help="end it, on trial or promoted")
    canary.add_argument("--detach", action="store_true", help="start it and return")
    canary.add_argument("--url", default="http://127.0.0.1:8000", help="where it is served")
    canary.set_defaults(run=_canary)

    launcher = subparsers.add_parser(
        "launcher",
        help="a cluster file for `ray up`",
        description="Fill a launcher in, check it and print the cluster file. Without values: "
        "what it needs.",
        epilog="dspark launcher local head_ip=10.0.0.1 worker_ips=10.0.0.2 ssh_user=me > my.yaml",
    )
    launcher.add_argument("name", nargs="?", help="one of cluster/launchers (default: list them)")
    launcher.add_argument("values", nargs="*", metavar="NAME=VALUE")
    launcher.set_defaults(run=_launcher)

    boards = subparsers.add_parser(
        "dashboards",
        help="Grafana dashboards, Prometheus rules, the list of metrics",
        description="Bring the dashboards and alerts that come with the package to Grafana and "
        "Prometheus.",
    ).add_subparsers(metavar="WHAT", required=True)
    write = boards.add_parser("write", help="files that Grafana and Prometheus provision from")
    write.add_argument("directory", type=Path, help="made where it is missing")
    write.set_defaults(run=_dashboards_write)
    push = boards.add_parser("push", help="create or replace them in a running Grafana")
    push.add_argument("--url", required=True, help="Grafana's address")
    push.add_argument(
        "--token",
        default=os.environ.get("GRAFANA_TOKEN"),
        help="of a service account that may edit (default: GRAFANA_TOKEN)",
    )
    push.set_defaults(run=_dashboards_push)
    boards.add_parser("metrics", help="print docs/metrics.md").set_defaults(run=_metrics)


def _set(args: argparse.Namespace) -> int:
    """0: changed; 1: refused or not reached, with the reason."""
    import httpx
    import yaml

    try:
        changes = parse_changes(args.changes)
        address = f"{args.url}/fleet/models/{args.model}"
        reply = httpx.patch(address, json=changes, headers=key_headers(), timeout=10)
    except (ValueError, httpx.HTTPError) as error:
        print(f"dspark set: {error}", file=sys.stderr)
        return 1
    body = reply.json()
    if not reply.is_success:
        print(f"dspark set: {body['error']['message']}", file=sys.stderr)
        return 1
    print(yaml.safe_dump(body, sort_keys=False), end="")
    return 0


def _status(args: argparse.Namespace) -> int:
    """0: shown; 1: not reached, with the reason."""
    import httpx

    from cluster.status import status_text

    try:
        reply = httpx.get(f"{args.url}/fleet", headers=key_headers(), timeout=10)
        reply.raise_for_status()
        print(status_text(reply.json()))
    except (httpx.HTTPError, ValueError) as error:
        print(f"dspark status: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"dspark status: {args.url}/fleet is of another version: {error}", file=sys.stderr)
        return 1
    return 0


def _canary(args: argparse.Namespace) -> int:
    """0: promoted, stopped or started; 1: refused or not reached; 3: rolled back."""
    import httpx

    from cluster.canary_command import CanaryError, run_canary, stop_canary

    say = functools.partial(print, flush=True)
    try:
        with httpx.Client(base_url=args.url, headers=key_headers(), timeout=60) as client:
            if args.stop:
                say(stop_canary(client, args.model))
                return 0
            if args.drafter is None:
                raise CanaryError("say which drafter to try, or --stop")
            asked = {
                "drafter": args.drafter,
                "share": args.share,
                "margin": args.margin,
                "ece_margin": args.ece_margin,
                "patience_s": args.patience,
            }
            if args.replicas is not None:
                asked["replicas"] = args.replicas
            is_kept = run_canary(client, args.model, asked, say, wait=not args.detach)
    except (CanaryError, httpx.HTTPError) as error:
        print(f"dspark canary: {error}", file=sys.stderr)
        return 1
    return 0 if is_kept else 3


def key_headers() -> dict[str, str]:
    """The API key of OPENAI_API_KEY, where there is one: changes take an admin's."""
    key = os.environ.get("OPENAI_API_KEY")
    return {"Authorization": f"Bearer {key}"} if key else {}


def share(text: str) -> float:
    """`5%` or `0.05`. Raises ValueError for what is no share."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value <= 1:
        raise ValueError(text)
    return value


def _launcher(args: argparse.Namespace) -> int:
    """0: the file, or what it needs, is on standard output; 1: refused, with every reason."""
    import yaml

    from cluster.launchers import LauncherError, check_cluster, describe, render, template_names

    try:
        if not args.values:
            names = [args.name] if args.name else template_names()
            print("\n\n".join(describe(name) for name in names))
            return 0
        pairs = [text.partition("=") for text in args.values]
        wrong = [name for name, separator, _ in pairs if not separator]
        if wrong:
            raise LauncherError(f"{', '.join(wrong)}: not NAME=VALUE")
        cluster = render(args.name, {name: value for name, _, value in pairs})
        check_cluster(cluster)
    except LauncherError as error:
        print(f"dspark launcher: {error}", file=sys.stderr)
        return 1
    print(yaml.safe_dump(cluster, sort_keys=False, width=100), end="")
    return 0


def _dashboards_write(args: argparse.Namespace) -> int:
    """0: written, with what; 1: it cannot be."""
    from cluster.observability.grafana import write_files

    try:
        for path in write_files(args.directory):
            print(path)
    except OSError as error:
        print(f"dspark dashboards write: {error}", file=sys.stderr)
        return 1
    return 0


def _dashboards_push(args: argparse.Namespace) -> int:
    """0: all are there; 1: refused or not reached, with the reason."""
    from cluster.observability.grafana import PushError, push_dashboards

    if not args.token:
        print("dspark dashboards push: give --token or set GRAFANA_TOKEN", file=sys.stderr)
        return 1
    try:
        for address in push_dashboards(args.url, args.token):
            print(address)
    except PushError as error:
        print(f"dspark dashboards push: {error}", file=sys.stderr)
        return 1
    return 0


def _metrics(args: argparse.Namespace) -> int:
    """0: the page is on standard output."""
    from cluster.observability.metrics import metrics_page

    print(metrics_page(), end="")
    return 0


def parse_changes(texts: list[str]) -> dict[str, Any]:
    """`key=value` with YAML values. Raises ValueError naming the text that is not one."""
    import yaml

    changes: dict[str, Any] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"{text!r} is not KEY=VALUE")
        try:
            changes[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"{text!r}: {error}") from None
    return changes
