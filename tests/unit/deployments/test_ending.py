import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PARENT = """
import multiprocessing, os, subprocess, sys, time

def child():
    from deployments.ending import end_with_parent
    end_with_parent()
    rank = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(os.getpid(), rank.pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=child).start()
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_an_engine_and_its_ranks_end_with_a_replica_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    with parent:
        assert parent.stdout is not None
        engine, rank = map(int, parent.stdout.readline().split())
        assert is_alive(engine)
        assert is_alive(rank)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (is_alive(engine) or is_alive(rank)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(engine)
    assert not is_alive(rank)
