"""Is this cluster fit to serve? Evidence is collected, then examined; the two know nothing of
each other, so what one machine recorded can be examined on another."""

from cluster.doctor.evidence import Evidence, EvidenceError, joined, read_evidence
from cluster.doctor.examination import examine
from cluster.doctor.findings import Finding, as_json, as_text, is_broken
from cluster.doctor.node_checks import Expected

__all__ = [
    "Evidence",
    "EvidenceError",
    "Expected",
    "Finding",
    "as_json",
    "as_text",
    "examine",
    "is_broken",
    "joined",
    "read_evidence",
]
