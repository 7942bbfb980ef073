"""A thread in which the fleet learns, so that no exchange waits for a refit."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Mapping
from typing import Any

from cluster.fleet_learning import FleetLearning
from profiles.provenance import DraftingPair

log = logging.getLogger(__name__)

REFIT_EVERY_S = 10.0
_MAX_WAITING = 256  # reports; more are dropped


class LearningThread:
    """Absorbs what is offered, in order, and refits every ten seconds. Runs as a daemon."""

    def __init__(self, learning: FleetLearning, refit_every_s: float = REFIT_EVERY_S) -> None:
        self.num_dropped = 0
        self._learning = learning
        self._refit_every_s = refit_every_s
        self._waiting: queue.Queue[tuple[DraftingPair, Mapping[str, Any]]] = queue.Queue(
            _MAX_WAITING
        )
        threading.Thread(target=self._run, name="learning", daemon=True).start()

    def offer(self, pair: DraftingPair, outcomes: Mapping[str, Any]) -> None:
        """A replica's outcomes; dropped and counted where the thread does not keep up."""
        try:
            self._waiting.put_nowait((pair, outcomes))
        except queue.Full:
            self.num_dropped += 1

    def _run(self) -> None:
        next_refit_s = time.monotonic() + self._refit_every_s
        while True:
            try:
                left_s = max(0.0, next_refit_s - time.monotonic())
                self._learning.absorb(*self._waiting.get(timeout=left_s))
            except queue.Empty:
                pass
            except Exception:
                log.exception("outcomes could not be absorbed")
            if time.monotonic() >= next_refit_s:
                next_refit_s = time.monotonic() + self._refit_every_s
                self._refit()

    def _refit(self) -> None:
        try:
            self._learning.refit()
        except Exception:
            log.exception("a refit failed; what served before goes on")
