"""Evidence of every node of a running Ray cluster: one task each, where the node is."""

from __future__ import annotations

import time
from dataclasses import replace

from cluster.doctor.collect import collect_node
from cluster.doctor.evidence import Clock, NodeEvidence

NODE_S = 60.0  # for a node to answer


class ClusterError(RuntimeError):
    """There is no cluster to ask, or it does not let us."""


def collect_cluster(address: str = "auto", within_s: float = NODE_S) -> list[NodeEvidence]:
    """Raises ClusterError where no cluster answers. A node that does not is in the list, with
    nothing known of it but that."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises ConnectionError, RuntimeError and its own
        raise ClusterError(f"no Ray cluster at {address}: {error}") from None
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(_on_node)
        asked = []
        for node in (one for one in ray.nodes() if one["Alive"]):
            here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            asked.append((name, time.time(), task.options(scheduling_strategy=here).remote()))
        return [_answer(name, began_s, ref, within_s) for name, began_s, ref in asked]
    finally:
        ray.shutdown()


def _on_node() -> tuple[NodeEvidence, float]:
    """With the node's wall clock as it answers."""
    return collect_node(), time.time()


def _answer(name: str, began_s: float, ref: object, within_s: float) -> NodeEvidence:
    import ray

    evidence: NodeEvidence
    try:
        evidence, there_s = ray.get(ref, timeout=within_s)
    except Exception as error:  # whatever befell it, the other nodes are to be heard
        return NodeEvidence(name, unknown=(f"does not answer: {type(error).__name__}: {error}",))
    return replace(evidence, node=name, clock=asked_clock(evidence.clock, began_s, there_s))


def asked_clock(clock: Clock, began_s: float, there_s: float) -> Clock:
    """`there_s` was read between `began_s` and now, by our clock."""
    within_s = (time.time() - began_s) / 2
    return replace(clock, asked_offset_s=there_s - (began_s + within_s), asked_within_s=within_s)
