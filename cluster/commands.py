"""`dspark set`: change a model while it serves."""

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
