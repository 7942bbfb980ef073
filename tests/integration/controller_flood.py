"""A process that floods the controller of a running application, for as many seconds as it is told.

    python -m tests.integration.controller_flood APPLICATION MODEL SECONDS

Ray's address and token come from the environment. It sends, as fast as Ray takes them, loads
that no replica can have, outcomes and step costs that are none, reports of thousands of targets
that there are not, and one replica's report again and again; it prints how many.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice

import ray

from autoscale.fleet_load import ReplicaLoad
from cluster.messages import TargetReport
from deployments.controller_link import find_controller
from profiles.provenance import DraftingPair
from profiles.step_cost import EngineProvenance

AT_ONCE = 200
PAIR = DraftingPair("demo-target", "0" * 12, "demo-drafter", "0" * 12)
ENGINE = EngineProvenance("none", "demo-target", "0" * 12, "float32", "tp1", "vllm", "0", "0")
IDLE = ReplicaLoad(0, 0, 8, 0, 0.0, 0.0, 0.0, 1.0, 0.01, 0, 0, 0.0)
IMPOSSIBLE = (
    replace(IDLE, arrivals_per_s=float("nan")),
    replace(IDLE, running=-1),
    replace(IDLE, waiting=1 << 60),
)


def reports(model_id: str) -> Iterator[TargetReport]:
    honest = TargetReport("again", model_id, "split", 1, load=IDLE)
    for number, load in enumerate(cycle(IMPOSSIBLE)):
        other = replace(honest, replica_id=f"nobody-{number % 8192}", load=load)
        yield other
        yield replace(honest, pair=PAIR, outcomes={"greedy/0": {"drafts": "many"}})
        yield replace(other, engine=ENGINE, step_cost={"n_tokens": [3, 2, 1]})
        yield honest


def flood(app_name: str, model_id: str, seconds: float) -> int:
    controller = find_controller(app_name)
    endless = reports(model_id)
    sent = 0
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s:
        batch = [controller.report_target.remote(one) for one in islice(endless, AT_ONCE)]
        ray.get(batch)
        sent += len(batch)
    return sent


if __name__ == "__main__":
    ray.init(log_to_driver=False, logging_level="ERROR")
    print(flood(sys.argv[1], sys.argv[2], float(sys.argv[3])))
