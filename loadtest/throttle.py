"""A slow node, by stopping and continuing a process: what it does not run, others can."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_PERIOD_S = 0.02  # a stop in the middle of every step or two


@contextmanager
def throttled(pid: int, speed: float, period_s: float = _PERIOD_S) -> Iterator[None]:
    """Let the process run for a share `speed` of the time. Whatever happens, it goes on after.

    Raises ValueError for a speed that is no share, ProcessLookupError where it is not there.
    """
    if not 0 < speed <= 1:
        raise ValueError(f"speed is a share of the time, above 0 and at most 1, not {speed}")
    os.kill(pid, 0)
    ended = threading.Event()

    def alternate() -> None:
        try:
            while not ended.wait(speed * period_s):
                os.kill(pid, signal.SIGSTOP)
                ended.wait((1 - speed) * period_s)
                os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return  # it ended by itself

    thread = threading.Thread(target=alternate, daemon=True)
    if speed < 1:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if speed < 1:
            thread.join()
