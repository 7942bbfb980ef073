"""Reports as `GET /fleet` shows them, one by one and added up."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from typing import Any

from cluster.messages import DrafterReport, TargetReport

_TOTALS = ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens")


def plain(report: TargetReport | DrafterReport) -> dict[str, Any]:
    """As `asdict`, with what is plain already, a replica's statistics, not copied once more."""
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


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
