"""How a replica ends itself when its engine is past help."""

from __future__ import annotations

import logging
import os
import sys

import psutil

logger = logging.getLogger(__name__)


def end_process(reason: str) -> None:
    """End this process and all it has started, at once; Serve starts another replica.

    An engine that hangs would survive a polite request, and a rank that lives on would keep
    its memory and its port: the whole group goes. Callers see the actor die, which is what
    lets their streams go on elsewhere.
    """
    logger.critical("this replica ends: %s", reason)
    print(f"this replica ends: {reason}", file=sys.stderr, flush=True)
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(1)
