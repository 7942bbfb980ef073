"""A Ray cluster of several nodes on this machine, in a process of its own; nodes die and come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

_CLUSTER = """
import json, sys
from ray.cluster_utils import Cluster
head, *others = json.loads(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.head_node, *(cluster.add_node(**node) for node in others)]
print("at", cluster.address, cluster.webui_url or "-", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if "kill" in asked:
        cluster.remove_node(nodes[asked["kill"]], allow_graceful=False)
    else:
        nodes.append(cluster.add_node(**asked["add"]))
    print("done", flush=True)
cluster.shutdown()
"""


def place(config: Path, drafters: dict[str, float], at_the_front: Sequence[str]) -> Path:
    """A Serve file whose drafters, and these deployments by name, run where Ray's custom resources
    say, the latter at `front`; the only proxy is the head's."""
    document = yaml.safe_load(config.read_text())
    document["proxy_location"] = "HeadOnly"
    (application,) = document["applications"]
    application["args"]["models"][0]["drafter"]["resources"] = drafters
    front = {"num_cpus": 0.1, "resources": {"front": 0.1}}
    application["deployments"] = [
        {"name": name, "ray_actor_options": front} for name in at_the_front
    ]
    config.write_text(yaml.safe_dump(document))
    return config


class RayNodes:
    """`address` is Ray's, `dashboard` that of its HTTP API where the head has one."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        _, self.address, self.dashboard = self._answer("at ").split()

    def kill(self, number: int) -> None:
        """With all that runs there, at once; the head is 0 and stays."""
        self._ask({"kill": number})

    def add(self, **node: Any) -> None:
        self._ask({"add": node})

    def _ask(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        self._answer("done")

    def _answer(self, beginning: str) -> str:
        assert self._process.stdout is not None
        said = next((line for line in self._process.stdout if line.startswith(beginning)), None)
        assert said is not None, "the nodes did not start"
        return said


@contextmanager
def ray_nodes(head: dict[str, Any], *others: dict[str, Any], **env: str) -> Iterator[RayNodes]:
    """Nodes by what `ray.cluster_utils.Cluster.add_node` takes."""
    nodes = [{"include_dashboard": False} | head, *others]
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER, json.dumps(nodes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | env,
    )
    assert process.stdin is not None
    try:
        yield RayNodes(process)
    finally:
        process.stdin.close()
        process.wait(60)
