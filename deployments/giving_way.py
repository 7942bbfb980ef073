"""Engines that share their processors with what talks to clients give way to it.

On a machine without an accelerator an engine would compute without pause, and ingress, proxy and
replica, which each do a little for every message, would queue for the processor behind it: streams
stall and refusals come late, though their work is short. Niceness costs an engine only what they
take, and says nothing where processors are free.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import psutil

LOWER_BY = 4  # with Ray's own 15 it comes to 19, the lowest there is


def give_way() -> None:
    """Lower the priority of all processes that this one started, thread by thread, as Linux has
    it; threads to come inherit it. Does nothing where there is no `/proc`."""
    for child in psutil.Process().children(recursive=True):
        for thread in Path(f"/proc/{child.pid}/task").glob("*"):
            _lower(int(thread.name))


def _lower(thread_id: int) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        now = os.getpriority(os.PRIO_PROCESS, thread_id)
        os.setpriority(os.PRIO_PROCESS, thread_id, min(now + LOWER_BY, 19))
