"""Who reads the wall clock, which jumps: whatever is timed, dated or ordered by it can go wrong."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("autoscale", "cluster", "deployments", "drafters")

# Each with the reason why an hour forward or back does no harm.
WALL_CLOCKS = {
    "autoscale/commands.py": "the day that a profile bears",
    "cluster/doctor/collect.py": "days until a certificate ends",
    "cluster/doctor/ray_nodes.py": "the clocks of nodes are what is compared",
    "cluster/fleet_learning.py": "the day that a profile bears",
    "cluster/step_cost_learning.py": "the day that a profile bears",
    "deployments/controller.py": "an epoch, raised above those held (test_controller.py)",
    "deployments/deploy.py": "how long starts took, which Serve dates so; nothing waits by it",
    "deployments/engine/profile.py": "the day that a profile bears",
    "deployments/request_log.py": "a date to read; what took how long is told by another clock",
    "deployments/tracing/otel.py": "where a span begins, not how long it is",
    "drafters/capture.py": "parts dated to the future are dated anew (test_capture.py)",
}
READS = re.compile(r"\b(time\.time(_ns)?|datetime\.(utc)?now|date\.today)\b")


def wall_clocks() -> set[str]:
    """Files of ours that name a function of `READS`."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {str(path.relative_to(ROOT)) for path in paths if READS.search(path.read_text())}


def test_every_wall_clock_is_known_and_harmless():
    assert wall_clocks() == set(WALL_CLOCKS)
