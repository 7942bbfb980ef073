"""Who reads the answers that a target is making, so that what nobody reads any more ends.

Serve cancels what a request has called when the request is cancelled. An ingress that is killed
cancels nothing: its requests would keep their seats until their last token.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class Readers:
    """Of one target: tasks by the ingress replica that reads what they answer."""

    def __init__(self) -> None:
        self._tasks: defaultdict[str, set[asyncio.Task[object]]] = defaultdict(set)

    @contextmanager
    def reading(self, ingress: str) -> Iterator[None]:
        """For as long as the current task answers a request of `ingress`."""
        task = asyncio.current_task()
        assert task is not None, "answers are made in tasks"
        self._tasks[ingress].add(task)
        try:
            yield
        finally:
            tasks = self._tasks[ingress]
            tasks.discard(task)
            if not tasks:
                del self._tasks[ingress]

    def gone(self, ingresses: Iterable[str]) -> None:
        """Nobody reads for these any more: their requests are cancelled."""
        for ingress in ingresses:
            for task in self._tasks.pop(ingress, ()):  # told once: they may take time to end
                task.cancel()
