"""A slow node, by stopping and continuing its processes: what they do not run, others can."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

_PERIOD_S = 0.02  # a stop in the middle of every step or two


@contextmanager
def throttled(pids: Sequence[int], speed: float, period_s: float = _PERIOD_S) -> Iterator[None]:
    """Let processes run, all at once, for a share `speed` of the time. Whatever happens, they go
    on after.

    Raises ValueError for a speed that is no share, ProcessLookupError where one is not there.
    """
    if not 0 < speed <= 1:
        raise ValueError(f"speed is a share of the time, above 0 and at most 1, not {speed}")
    for pid in pids:
        os.kill(pid, 0)
    ended = threading.Event()

    def signal_all(number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, number)

    def alternate() -> None:
        while not ended.wait(speed * period_s):
            signal_all(signal.SIGSTOP)
            ended.wait((1 - speed) * period_s)
            signal_all(signal.SIGCONT)

    thread = threading.Thread(target=alternate, daemon=True)
    if speed < 1:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if speed < 1:
            thread.join()
