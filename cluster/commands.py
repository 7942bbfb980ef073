"""`dspark status` shows a fleet, `dspark set` changes a model while it serves, `dspark
launcher` makes a cluster file for `ray up`."""

from __future__ import annotations

import argparse
import sys
from typing import Any


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add this package's commands to the `dspark` parser."""
    change = subparsers.add_parser(
        "set",
        help="change a model while it serves",
        description="Change a model while it serves, without a restart. Keys: speculation, "
        "policy, max_draft_tokens, verify_budget_tokens, deadline_ms, drafter_address. "
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


def _set(args: argparse.Namespace) -> int:
    """0: changed; 1: refused or not reached, with the reason."""
    import httpx
    import yaml

    try:
        changes = parse_changes(args.changes)
        reply = httpx.patch(f"{args.url}/fleet/models/{args.model}", json=changes, timeout=10)
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
        reply = httpx.get(f"{args.url}/fleet", timeout=10).raise_for_status()
        print(status_text(reply.json()))
    except (httpx.HTTPError, ValueError) as error:
        print(f"dspark status: {error}", file=sys.stderr)
        return 1
    except KeyError as error:
        print(f"dspark status: {args.url}/fleet is of another version: {error}", file=sys.stderr)
        return 1
    return 0


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
