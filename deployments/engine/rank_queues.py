"""Ranks that wait for work without burning a processor.

vLLM's queue between an engine and its ranks is watched in a busy loop for a second after every
message. The fleet's exchange brings one twice a second, so ranks without requests would never
come to rest; and where ranks share few cores, who watches takes the time of who computes.

vLLM calls `register` in each of its processes, by the `vllm.general_plugins` entry point.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import wraps
from typing import Any

SPIN_MS = "DSPARK_RANK_SPIN_MS"
_SLEEP_MS = 20


def register() -> None:
    """Bound the busy loop where the environment says so; a vLLM without one is left as it is."""
    given = os.environ.get(SPIN_MS)
    if given is None:
        return
    with suppress(ImportError, AttributeError):
        from vllm.distributed.device_communicators.shm_broadcast import SpinCondition

        bound_spin(SpinCondition, float(given) / 1000)


def bound_spin(spin_condition: Any, most_s: float) -> None:
    """Let readers watch for at most `most_s` before they sleep until they are notified.

    A notification is lost on a reader that has not subscribed yet (the busy loop bridges that
    in vLLM), so a sleep has an end, and the queue is looked at again. Doing it twice keeps the
    first bound.
    """
    original = spin_condition.wait
    if hasattr(original, "unbounded"):
        return

    @wraps(original)
    def wait(self: Any, timeout_ms: int | None = None) -> None:
        self.busy_loop_s = min(self.busy_loop_s, most_s)
        original(self, _SLEEP_MS if timeout_ms is None else min(timeout_ms, _SLEEP_MS))

    wait.unbounded = original  # type: ignore[attr-defined]
    spin_condition.wait = wait
