"""What schemathesis sends, turned towards the models that are served and kept short."""

from __future__ import annotations

from typing import Any

import schemathesis

LIMITS = ("max_tokens", "max_completion_tokens")


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    if not isinstance(body, dict) or not body.keys() & {"messages", "prompt", "input"}:
        return body
    short = {name: min(body[name], 8) if isinstance(body.get(name), int) else 8 for name in LIMITS}
    return body | {"model": "embedder" if "input" in body else "split"} | short
