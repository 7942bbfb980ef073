"""How a replica and its engine take each other along when one of them is past help."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from multiprocessing.connection import wait

import psutil

logger = logging.getLogger(__name__)


def end_process(reason: str) -> None:
    """End this process and all it has started, at once; Serve starts another replica.

    An engine that hangs would survive a polite request, and a rank that lives on would keep
    its memory and its port: the whole group goes. Callers see the actor die, which is what
    lets their streams go on elsewhere.
    """
    logger.critical("this process ends: %s", reason)
    print(f"this process ends: {reason}", file=sys.stderr, flush=True)
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(1)


def end_with_parent() -> None:
    """End this process once the one that started it is gone, however that was killed.

    vLLM's engine would outlive a replica that was killed, with all its memory, and the next
    replica would find none. Does nothing in a process that `multiprocessing` did not start.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        end_process("its parent is gone")

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
