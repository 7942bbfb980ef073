"""A thread in which the fleet learns, so that no exchange waits for a refit."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

REFIT_EVERY_S = 10.0
_MAX_WAITING = 256  # reports; more are dropped


class LearningThread:
    """Absorbs what is offered, in order, and refits every ten seconds. Runs as a daemon."""

    def __init__(self, refit: Callable[[], None], refit_every_s: float = REFIT_EVERY_S) -> None:
        self.num_dropped = 0
        self._refit = refit
        self._refit_every_s = refit_every_s
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(_MAX_WAITING)
        threading.Thread(target=self._run, name="learning", daemon=True).start()

    def offer(self, absorb: Callable[[], None]) -> None:
        """Absorb a replica's report; dropped and counted where the thread does not keep up."""
        try:
            self._waiting.put_nowait(absorb)
        except queue.Full:
            self.num_dropped += 1

    def _run(self) -> None:
        next_refit_s = time.monotonic() + self._refit_every_s
        while True:
            try:
                left_s = max(0.0, next_refit_s - time.monotonic())
                absorb = self._waiting.get(timeout=left_s)
                absorb()
            except queue.Empty:
                pass
            except Exception:
                log.exception("a report could not be absorbed")
            if time.monotonic() >= next_refit_s:
                next_refit_s = time.monotonic() + self._refit_every_s
                self._refit_safely()

    def _refit_safely(self) -> None:
        try:
            self._refit()
        except Exception:
            log.exception("a refit failed; what served before goes on")
