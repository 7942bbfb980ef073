"""Nodes held against each other: what has to be the same everywhere, and what must differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from cluster.doctor.evidence import NodeEvidence
from cluster.doctor.findings import Finding, broken, fine, warning

_ALL = "all nodes"


def check_together(nodes: Sequence[NodeEvidence]) -> Iterator[Finding]:
    if len(nodes) < 2:
        return
    yield from _versions(nodes)
    gpus = [node for node in nodes if node.gpus]
    yield from _same(gpus, "driver", lambda node: node.gpus[0].driver)
    yield from _same(gpus, "kernel", lambda node: node.kernel)
    yield from _mtus(nodes)
    yield from _tls(nodes)
    counts = Counter(node.environment.get("VLLM_HOST_IP") for node in nodes)
    for address in sorted(a for a, count in counts.items() if a and count > 1):
        yield broken(
            _ALL,
            "interface",
            f"VLLM_HOST_IP is {address} on {counts[address]} nodes",
            "ranks take themselves for each other",
            "set VLLM_HOST_IP on each node to its own address",
        )


def _versions(nodes: Sequence[NodeEvidence]) -> Iterator[Finding]:
    differ = False
    for name in ("python", "ray", "vllm", "torch", "dspark", "nccl"):
        found = {node.node: node.versions.get(name, "not installed") for node in nodes}
        if len(set(found.values())) > 1:
            differ = True
            yield broken(
                _ALL,
                "versions",
                f"{name}: {_listed(found)}",
                "messages between nodes are those of one version: Ray refuses the node, ranks hang",
                "the same image, or `make setup` from the same commit, on every node",
            )
    if not differ:
        yield fine(_ALL, "versions", "are the same")


def _same(
    nodes: Sequence[NodeEvidence], what: str, of: Callable[[NodeEvidence], str]
) -> Iterator[Finding]:
    found = {node.node: of(node) for node in nodes}
    if len(set(found.values())) > 1:
        yield warning(
            _ALL,
            what,
            _listed(found),
            "ranks of one target compute with different software; one node may have the fault",
            "update all nodes to the same",
        )


def _tls(nodes: Sequence[NodeEvidence]) -> Iterator[Finding]:
    found = {n.node: "off" if n.ray_tls is None else "on" for n in nodes if n.versions}
    if len(set(found.values())) > 1:
        yield broken(
            _ALL,
            "Ray's TLS",
            _listed(found),
            "a node that encrypts and one that does not cannot talk",
            "RAY_USE_TLS and its three files on every node, or on none",
        )


def _mtus(nodes: Sequence[NodeEvidence]) -> Iterator[Finding]:
    found = {}
    for node in nodes:
        netdevs = {port.netdev for port in node.rdma if port.state == "ACTIVE"}
        mtus = {interface.mtu for interface in node.interfaces if interface.name in netdevs}
        if mtus:
            found[node.node] = "/".join(map(str, sorted(mtus)))
    if len(set(found.values())) > 1:
        yield broken(
            _ALL,
            "MTU",
            _listed(found),
            "large frames of one node are dropped by the other: small messages pass, tensors hang",
            "the same MTU on both ends of the cable, in netplan",
        )


def _listed(found: dict[str, str]) -> str:
    return ", ".join(f"{value} on {node}" for node, value in sorted(found.items()))
