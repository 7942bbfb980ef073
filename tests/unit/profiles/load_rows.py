"""Rows of load tests with every field filled in."""

from __future__ import annotations

from typing import Any

from profiles.load_records import RequestRow, RunRow


def request_row(run_id: str = "r", **changes: Any) -> RequestRow:
    """Three chunks of 1, 3 and 2 tokens after 0.1, 0.3 and 0.4 seconds."""
    fields: dict[str, Any] = {
        "run_id": run_id,
        "number": 0,
        "turn": 1,
        "domain": "math",
        "prompt_id": "math-0",
        "sent_s": 0.0,
        "status": "ok",
        "http_status": 200,
        "error": "",
        "prompt_tokens": 12,
        "counted_by": "token_ids",
        "finish_reason": "length",
        "gap_us": (100_000, 200_000, 100_000),
        "chunk_tokens": (1, 3, 2),
    } | changes
    fields.setdefault("due_s", fields["sent_s"])
    fields.setdefault("output_tokens", sum(fields["chunk_tokens"]))
    return RequestRow(**fields)


def run_row(run_id: str = "r", **changes: Any) -> RunRow:
    fields: dict[str, Any] = {
        "run_id": run_id,
        "arm": "off",
        "model": "off",
        "policy": "",
        "served_by": "dspark serve",
        "num_replicas": 1,
        "load": "closed",
        "load_value": 1.0,
        "trace": "",
        "context_tokens": 0,
        "round": 1,
        "visit": 1,
        "sitting": "one",
        "started_at": "2026-11-25T12:00:00+00:00",
        "window_s": 1.0,
        "wall_s": 1.0,
        "cpu_s": 3.0,
        "client_cpu_s": 0.1,
        "num_gpus": 0.0,
        "committed_tokens": 6,
        "verified_drafts": 2,
        "draft_tokens": 6,
        "accepted_tokens": 3,
        "admitted_by_position": (2, 2, 2),
        "accepted_by_position": (2, 1, 0),
        "expected_by_position": (1.8, 1.2, 0.5),
    } | changes
    return RunRow(**fields)
