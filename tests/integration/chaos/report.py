"""What is said of a run: as Markdown for whoever reads, as plain values for whoever compares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.integration.chaos.faults import Fault
from tests.integration.chaos.load import KINDS, RIGHT, Outcome


def report(outcomes: Sequence[Outcome], faults: Sequence[Fault]) -> dict[str, Any]:
    """Counts by kind, and per fault what it met: requests `under_way` from when it was caused
    until the service was whole again, what became of those that did not come out right, and the
    longest gap in a stream that did."""
    kinds = Counter(one.kind for one in outcomes)
    return {
        "requests": len(outcomes),
        "outcomes": {kind: kinds[kind] for kind in KINDS},
        "right_share": round(kinds[RIGHT] / len(outcomes), 4),
        "longest_s": round(max(one.ended_s - one.sent_s for one in outcomes), 1),
        "faults": [_met(fault, outcomes) for fault in faults],
        "ended_badly": [
            [one.request_id, one.kind, one.status, round(one.sent_s, 1), round(one.ended_s, 1)]
            for one in outcomes
            if one.kind != RIGHT
        ],
    }


def _met(fault: Fault, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    met = [one for one in outcomes if one.was_under_way(fault.at_s, fault.whole_s)]
    gaps = [one.longest_gap_s for one in met if one.kind == RIGHT]
    return {
        "what": fault.what,
        "at_s": round(fault.at_s, 1),
        "whole_after_s": round(fault.whole_s - fault.at_s, 1),
        "under_way": len(met),
        "not_right": dict(Counter(one.kind for one in met if one.kind != RIGHT)),
        "longest_gap_s": round(max(gaps, default=0.0), 1),
    }


def as_markdown(found: dict[str, Any]) -> str:
    """Two tables: what became of all requests, and what each fault met."""
    kinds = [kind for kind in KINDS if kind == RIGHT or found["outcomes"][kind]]
    counts = [str(found["outcomes"][kind]) for kind in kinds]
    share = f"{100 * found['right_share']:.1f}"
    faults = [
        [
            one["what"],
            f"{one['at_s']:.0f}",
            f"{one['whole_after_s']:.1f}",
            str(one["under_way"]),
            ", ".join(f"{n} {kind}" for kind, n in one["not_right"].items()) or "0",
            f"{one['longest_gap_s']:.1f}",
        ]
        for one in found["faults"]
    ]
    titles = ["fault", "at, s", "whole after, s", "under way", "not right", "longest gap, s"]
    totals = _table(
        ["requests", *kinds, "right, %", "longest, s"],
        [[str(found["requests"]), *counts, share, f"{found['longest_s']:.1f}"]],
    )
    return f"{totals}\n\n{_table(titles, faults)}"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
