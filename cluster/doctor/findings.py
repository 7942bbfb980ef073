"""What the doctor says: a finding has what was seen, why it matters and how to mend it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Severity(StrEnum):
    """`broken`: it does not work, or not safely. `warning`: slower or riskier than it could
    be. `fine`: looked at, and as it should be. `unknown`: could not be looked at."""

    BROKEN = "broken"
    WARNING = "warning"
    UNKNOWN = "unknown"
    FINE = "fine"


@dataclass(frozen=True, slots=True)
class Finding:
    severity: Severity
    node: str  # or the URL, or the Serve file
    check: str
    seen: str
    why: str = ""
    mend: str = ""


def broken(node: str, check: str, seen: str, why: str, mend: str) -> Finding:
    return Finding(Severity.BROKEN, node, check, seen, why, mend)


def warning(node: str, check: str, seen: str, why: str, mend: str) -> Finding:
    return Finding(Severity.WARNING, node, check, seen, why, mend)


def fine(node: str, check: str, seen: str) -> Finding:
    return Finding(Severity.FINE, node, check, seen)


def unknown(node: str, check: str, seen: str) -> Finding:
    return Finding(Severity.UNKNOWN, node, check, seen)


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """The worst first."""
    order = list(Severity)
    return sorted(findings, key=lambda one: order.index(one.severity))


def is_broken(findings: Sequence[Finding]) -> bool:
    return any(one.severity is Severity.BROKEN for one in findings)


def as_text(findings: Sequence[Finding]) -> str:
    """For people: what is wrong with its mend, then a line for each thing that is fine."""
    lines = []
    for one in ordered(findings):
        lines.append(f"{one.severity.value:<8} {one.node}: {one.check}: {one.seen}")
        if one.why:
            lines.append(f"         why:  {one.why}")
        if one.mend:
            lines.append(f"         mend: {one.mend}")
    counts = {s.value: sum(f.severity is s for f in findings) for s in Severity}
    lines.append(", ".join(f"{count} {name}" for name, count in counts.items()))
    return "\n".join(lines)


def as_json(findings: Sequence[Finding]) -> str:
    return json.dumps(
        {"broken": is_broken(findings), "findings": [asdict(f) for f in ordered(findings)]},
        indent=2,
    )
