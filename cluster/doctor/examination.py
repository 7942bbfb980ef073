"""From evidence to findings: every check there is. Pure."""

from __future__ import annotations

from dataclasses import replace

from cluster.doctor.evidence import Evidence
from cluster.doctor.findings import Finding
from cluster.doctor.fleet_checks import check_together
from cluster.doctor.network_checks import check_network
from cluster.doctor.node_checks import Expected, check_node
from cluster.doctor.security_checks import check_security
from cluster.doctor.service import check_service


def examine(evidence: Evidence, expected: Expected) -> list[Finding]:
    """A service that answers takes memory rightly, so a machine is then held to less."""
    service = evidence.service
    if service is not None and service.completion_tokens:
        expected = replace(expected, is_serving=True)
    findings: list[Finding] = []
    for node in evidence.nodes:
        findings += check_node(node, expected)
        findings += check_network(node, expected)
        findings += check_security(node)
    findings += check_together(evidence.nodes)
    if service is not None:
        findings += check_service(service)
    return findings
