"""Checkpoints on every node of a cluster: fetched by one of them, copied to the others.

So one node with a way to the hub is enough, and the hub is asked once. Nodes are served one after
the other, and each is asked whether it has a checkpoint by then: caches may be shared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Protocol

from deployments.errors import ConfigError
from deployments.prefetch import HubCheckpoint


class Nodes(Protocol):
    """Nodes by name. Every method raises ConfigError where a node cannot."""

    @property
    def names(self) -> Sequence[str]: ...

    def has(self, node: str, checkpoint: HubCheckpoint) -> bool:
        """Whether it is marked as whole there."""

    def fetch(self, node: str, checkpoint: HubCheckpoint) -> None:
        """From the hub, and mark it."""

    def copy(self, source: str, node: str, checkpoint: HubCheckpoint) -> int:
        """From one node to another, and mark it there; how many bytes it took."""


def named(hosts: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Ids of nodes by the name of their host; by host and id where one has several."""
    times = Counter(host for host, _ in hosts)
    return {
        host if times[host] == 1 else f"{host}, node {node_id[:8]}": node_id
        for host, node_id in hosts
    }


def spread(
    checkpoints: Sequence[HubCheckpoint], nodes: Nodes, say: Callable[[str], None]
) -> list[str]:
    """Returns what went wrong, a line each; what can be done is done all the same."""
    faults: list[str] = []
    for checkpoint in checkpoints:
        say(f"{checkpoint.source} at {checkpoint.revision or 'its newest revision'}")
        try:
            source = _source(checkpoint, nodes, say)
        except ConfigError as error:
            faults.append(str(error))
            continue
        for node in nodes.names:
            try:
                if nodes.has(node, checkpoint):
                    say(f"  is on {node}")
                    continue
                num_bytes = nodes.copy(source, node, checkpoint)
                say(f"  is on {node}, {num_bytes / 2**30:.1f} GiB copied from {source}")
            except ConfigError as error:
                faults.append(f"{checkpoint.source} on {node}: {error}")
    return faults


def _source(checkpoint: HubCheckpoint, nodes: Nodes, say: Callable[[str], None]) -> str:
    """A node that has it, or the first that can fetch it. Raises ConfigError with the reasons of
    all where none can."""
    reasons = []
    for node in nodes.names:
        try:
            if nodes.has(node, checkpoint):
                return node
        except ConfigError as error:
            reasons.append(f"{node}: {error}")
    for node in nodes.names:
        try:
            say(f"  fetching on {node}")
            nodes.fetch(node, checkpoint)
            return node
        except ConfigError as error:
            reasons.append(f"{node}: {error}")
    raise ConfigError(f"{checkpoint.source}: no node can fetch it: " + "; ".join(reasons))
