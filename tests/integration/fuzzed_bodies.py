"""What schemathesis sends, turned towards the models that are served and kept short; and what it
says afterwards of what it sent."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

LIMITS = ("max_tokens", "max_completion_tokens")
MATTER = (  # operations that do a model's work
    "POST /v1/chat/completions",
    "POST /v1/completions",
    "POST /v1/embeddings",
    "POST /tokenize",
)
_MOST_TEXT = 200  # characters


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Of an operation that matters every second body is one that has an answer, said about what
    was drawn: of free bodies hardly any gets past the checks."""
    operation = context.operation.label if context.operation is not None else None
    text = json.dumps(body, default=repr)
    if operation in MATTER and zlib.crc32(text.encode()) % 2:
        return answerable(operation, text[:_MOST_TEXT])
    if not isinstance(body, dict) or not body.keys() & {"messages", "prompt", "input"}:
        return body
    short = {name: min(body[name], 8) if isinstance(body.get(name), int) else 8 for name in LIMITS}
    return body | {"model": "embedder" if "input" in body else "split"} | short


def answerable(operation: str, text: str) -> dict[str, Any]:
    """A body that a model answers."""
    if operation == "POST /v1/embeddings":
        return {"model": "embedder", "input": text}
    if operation == "POST /v1/chat/completions":
        said = {"messages": [{"role": "user", "content": text}]}
        return {"model": "split", "max_tokens": 8} | said
    return {"model": "split", "prompt": text} | (
        {} if operation == "POST /tokenize" else {"max_tokens": 8}
    )


def statuses(report: Path) -> dict[str, Counter[int]]:
    """By operation, the statuses of what was sent, of a report in NDJSON; 0 where none came."""
    found: dict[str, Counter[int]] = {}
    for line in report.read_text().splitlines():
        scenario = json.loads(line).get("ScenarioFinished")
        if scenario is None:
            continue
        counts = found.setdefault(scenario["recorder"]["label"], Counter())
        for interaction in scenario["recorder"].get("interactions", {}).values():
            counts[(interaction.get("response") or {}).get("status_code", 0)] += 1
    return found


def num_answered(counts: Counter[int]) -> int:
    """Those that were neither refused nor failed."""
    return sum(number for status, number in counts.items() if 200 <= status < 300)


def too_little(found: dict[str, Counter[int]], examples: int, answered: int) -> list[str]:
    """What of `MATTER` had fewer examples, or fewer answers, than it should have."""
    counts = {operation: found.get(operation, Counter()) for operation in MATTER}
    return [
        f"{operation}: {one.total()} examples, {num_answered(one)} answered: {dict(one)}"
        for operation, one in counts.items()
        if one.total() < examples or num_answered(one) < answered
    ]
