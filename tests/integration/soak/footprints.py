"""What processes hold, looked at every so often while they serve."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.integration.soak.growth import Footprint, Sample

MIB = 1 << 20


def footprints(server: psutil.Process) -> dict[int, Footprint]:
    """Of what serves: targets, their engines, drafters, ingress, controllers, proxy."""
    found = {}
    for process in server.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            title = " ".join(process.cmdline())
            title = "haproxy" if "/haproxy " in title else title
            is_ours = title.startswith(("ray::", "VLLM::", "haproxy"))
            if is_ours and "IDLE" not in title:
                found[process.pid] = Footprint(
                    title[:60],
                    process.memory_info().rss / MIB,
                    process.num_fds(),
                    len(process.net_connections()),
                )
    return found


@contextmanager
def watched(server: psutil.Process, every_s: float) -> Iterator[list[Sample]]:
    """The samples so far, at the beginning, at the end and in between."""
    began_s, is_over = time.monotonic(), threading.Event()
    samples: list[Sample] = []

    def look() -> None:
        samples.append(Sample(time.monotonic() - began_s, footprints(server)))

    def watch() -> None:
        while not is_over.wait(every_s):
            look()

    look()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield samples
    finally:
        is_over.set()
        watcher.join()
    look()
