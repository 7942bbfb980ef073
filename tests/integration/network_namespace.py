"""A second machine as far as the network goes: a namespace of this one, behind a link to cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

HERE, THERE = "10.213.77.1", "10.213.77.2"
_NOBODY = "02:00:00:00:00:01"  # has no interface: frames to it are dropped, and nobody is told


@dataclass(frozen=True, slots=True)
class Namespace:
    """`THERE` is its address, `HERE` ours on the link to it. `link` is its name on both sides, but
    for a last letter."""

    name: str
    link: str

    def command(self, command: Sequence[str]) -> list[str]:
        """What runs `command` there."""
        return ["ip", "netns", "exec", self.name, *command]

    def cut(self) -> None:
        """Silently, as a pulled cable does: connections stay open, and nothing comes."""
        to_nobody = ("lladdr", _NOBODY, "nud", "permanent")
        _ip("neigh", "replace", THERE, *to_nobody, "dev", f"{self.link}h")
        back = ["ip", "neigh", "replace", HERE, *to_nobody, "dev", f"{self.link}t"]
        _run(self.command(back))

    def mend(self) -> None:
        _ip("neigh", "del", THERE, "dev", f"{self.link}h")
        _run(self.command(["ip", "neigh", "del", HERE, "dev", f"{self.link}t"]))


@contextmanager
def network_namespace() -> Iterator[Namespace | None]:
    """None where none can be made: that takes root, and `ip`."""
    name, link = f"dspark-{os.getpid()}", f"ds{os.getpid() % 10**8}"
    if shutil.which("ip") is None or subprocess.run(["ip", "netns", "add", name]).returncode:
        yield None
        return
    there = Namespace(name, link)
    try:
        _ip("link", "add", f"{link}h", "type", "veth", "peer", "name", f"{link}t", "netns", name)
        _ip("addr", "add", f"{HERE}/30", "dev", f"{link}h")
        _ip("link", "set", f"{link}h", "up")
        for command in (
            ("addr", "add", f"{THERE}/30", "dev", f"{link}t"),
            ("link", "set", f"{link}t", "up"),
            ("link", "set", "lo", "up"),
        ):
            _run(there.command(["ip", *command]))
        yield there
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)  # and the link with it


def _ip(*arguments: str) -> None:
    _run(["ip", *arguments])


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True)
