"""What every process of a server takes: processor time, by the part that the process plays."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import psutil

_RAYS_OWN = "Ray"
_SERVER = "server"
_PROXY = "Serve's proxy"
_REPLICA = re.compile(r"ray::.*ServeReplica:[^:]+:([A-Za-z]+)")
_HAPROXY = re.compile(r"\S*haproxy ")
_ACTORS = {
    "ray::ProxyActor": _PROXY,
    "ray::ServeController": "Serve's controller",
    "ray::ControllerActor": "fleet controller",
    "VLLM::": "engine",
    "ray::HAProxyManager": _PROXY,
}


def part_of(command_line: str) -> str:
    """What a process is for: the deployment of a replica, an engine, an actor, else Ray itself or
    the command that started everything.

    Replicas of one deployment, and ranks of one engine, are one part.
    """
    if replica := _REPLICA.match(command_line):
        return replica[1]
    if _HAPROXY.match(command_line):
        return _PROXY
    for beginning, part in _ACTORS.items():
        if command_line.startswith(beginning):
            return part
    is_rays = command_line.startswith("ray::") or "/ray/" in command_line
    return _RAYS_OWN if is_rays else _SERVER


def cpu_by_part(root: int) -> Counter[str]:
    """Processor seconds so far of a process and its living descendants, by part; who ended counts
    where it was started.

    Raises psutil.NoSuchProcess where the root is gone.
    """
    top = psutil.Process(root)
    seconds: Counter[str] = Counter()
    for process in [top, *top.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            own_and_ended = sum(process.cpu_times()[:4])
            seconds[part_of(" ".join(process.cmdline()))] += own_and_ended
    return seconds


def tree_cpu_s(root: int) -> float:
    """Of all parts together, -1 where the root is gone."""
    try:
        return cpu_by_part(root).total()
    except psutil.NoSuchProcess:
        return -1.0


def cpu_table(ms_per_token: Mapping[str, Mapping[str, float]]) -> str:
    """As Markdown: milliseconds per token by part, a column for each server by name."""
    summed: Counter[str] = Counter()
    for found in ms_per_token.values():
        summed.update(found)
    rows = [f"| process, ms of a core per token | {' | '.join(ms_per_token)} |"]
    rows.append("|---" * (1 + len(ms_per_token)) + "|")
    for part, _ in summed.most_common():
        cells = (f"{one[part]:.2f}" if part in one else "" for one in ms_per_token.values())
        rows.append(f"| {part} | {' | '.join(cells)} |")
    totals = (f"{sum(one.values()):.2f}" for one in ms_per_token.values())
    return "\n".join([*rows, f"| all | {' | '.join(totals)} |"])
