"""Faults that are caused one after the other, each until the service is whole again."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.integration.served import wait_for

WHOLE_WITHIN_S = 240.0
CALM_S = 3.0  # after each
DISK_MIB = 8


@dataclass(frozen=True, slots=True)
class Fault:
    """What happened at `at_s`; the service was whole again at `whole_s`."""

    what: str
    at_s: float
    whole_s: float


@dataclass
class Faults:
    """`now_s` is the clock of the load that they meet."""

    now_s: Callable[[], float]
    all: list[Fault] = field(default_factory=list)

    def cause(self, what: str, fault: Callable[[], Any], whole: Callable[[], Any]) -> None:
        at_s = self.now_s()
        fault()
        wait_for(whole, WHOLE_WITHIN_S)
        self.all.append(Fault(what, at_s, self.now_s()))
        print(f"{what}: at {at_s:.1f} s, whole at {self.now_s():.1f} s", flush=True)
        time.sleep(CALM_S)

    def last(self, what: str, fault: Callable[[], Any], seconds: float) -> None:
        """One that goes on; the service is whole while it does."""

        def since() -> None:
            fault()
            time.sleep(seconds)

        self.cause(what, since, lambda: True)

    def stop(self, what: str, stopped: Iterable[psutil.Process], seconds: float) -> None:
        """SIGSTOP, and SIGCONT so many seconds later."""
        found = list(stopped)
        assert found, what

        def stop_and_continue() -> None:
            try:
                for process in found:
                    process.suspend()
                time.sleep(seconds)
            finally:
                for process in found:
                    with suppress(psutil.NoSuchProcess):
                        process.resume()

        self.cause(f"{what} stopped for {seconds:g} s", stop_and_continue, lambda: True)


class Disk:
    """A file system of its own, which can be filled and made free again."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._ballast = directory / "ballast"

    def fill(self) -> None:
        """To the last byte."""
        with suppress(OSError), self._ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 12))
        assert self._is_full()

    def free(self) -> None:
        self._ballast.unlink()

    def _is_full(self) -> bool:
        found = os.statvfs(self.directory)
        return found.f_bavail == 0


@contextmanager
def small_disk(directory: Path) -> Iterator[Disk | None]:
    """None, and an ordinary directory, where no file system can be mounted."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(directory)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        print("no file system can be mounted here: the full disk is left out")
        yield None
        return
    try:
        yield Disk(directory)
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=False)
