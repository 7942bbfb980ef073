"""Engines on processors give way to what talks to clients."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deployments.giving_way import LOWER_BY, give_way

# A process with a thread of its own, which starts another once it is told to.
ENGINE = """
import os, sys, threading
before = threading.Event()
threading.Thread(target=before.wait, daemon=True).start()
print("up", flush=True)
input()
later = threading.Thread(target=before.wait, daemon=True)
later.start()
print(later.native_id, flush=True)
input()
"""


def niceness(pid: int) -> set[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return {os.getpriority(os.PRIO_PROCESS, int(thread.name)) for thread in threads}


def test_every_thread_of_a_child_is_lowered_and_nothing_else():
    own = niceness(os.getpid())
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert engine.stdin is not None
    assert engine.stdout is not None
    engine.stdout.readline()
    (before,) = niceness(engine.pid)
    lowered = min(before + LOWER_BY, 19)
    give_way()
    assert niceness(engine.pid) == {lowered}
    engine.stdin.write("\n")
    engine.stdin.flush()
    later = int(engine.stdout.readline())
    assert os.getpriority(os.PRIO_PROCESS, later) == lowered
    assert niceness(os.getpid()) == own
    engine.communicate("\n")


def test_there_is_nothing_below_the_lowest():
    child = subprocess.Popen(["sleep", "60"])
    for _ in range(6):
        give_way()
    assert niceness(child.pid) == {19}
    child.kill()
    child.wait()
