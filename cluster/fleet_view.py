"""Reports as `GET /fleet` shows them, one by one and added up."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

_TOTALS = ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens")


def plain(message: Any) -> dict[str, Any]:
    """A message, and what it is made of, by field: as `asdict`, with nothing else copied."""
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {name: plain(one) if is_dataclass(one) else one for name, one in values.items()}


def speculation_totals(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums over replicas, and the acceptance length: tokens per verified draft, bonus included."""
    totals: dict[str, Any] = {name: sum(s.get(name, 0) for s in stats) for name in _TOTALS}
    verified = totals["verified_drafts"]
    totals["acceptance_length"] = (
        round(1 + totals["accepted_tokens"] / verified, 4) if verified else None
    )
    ineligible: dict[str, int] = {}
    for replica in stats:
        for reason, count in replica.get("ineligible", {}).items():
            ineligible[reason] = ineligible.get(reason, 0) + count
    totals["without_speculation"] = ineligible
    return totals
