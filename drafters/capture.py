"""Served traffic as training text: a bounded part of it, kept beside the serving.

What is offered goes to a thread of its own, which redacts and writes; when that falls
behind, offers are dropped and counted. On disk it has the form of `drafters.answers`, and
the oldest parts make room for new ones.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drafters.answers import Answer, AnswerWriter, answer_parts

log = logging.getLogger(__name__)

MIN_OUTPUT_TOKENS = 8
_QUEUED = 256
_CLOSING_S = 10.0
_IDLE_S = 10.0  # without an offer, what is pending is written
_A_MOMENT_NS = 1_000_000_000  # within which what was just written is the newest

Redact = Callable[[Sequence[int], Sequence[int]], tuple[tuple[int, ...], tuple[int, ...]]]


@dataclass(slots=True)
class CaptureCounts:
    """`offered` requests of which `kept` were taken in; of them `lost` could not be written.
    `dropped` found the queue full. The others were not drawn, or had too short an output.
    """

    offered: int = 0
    kept: int = 0
    dropped: int = 0
    lost: int = 0


class TrafficCapture:
    """Keeps a `fraction` of what it is offered, at most `max_bytes` of it.

    Several replicas may share `root`: each writes into `root`/`name`, and the bound is on
    all of it. With `redact` None, text is kept as it is.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        model_id: str,
        redact: Redact | None,
        fraction: float = 1.0,
        max_bytes: int,
        rows_per_part: int = 256,
    ) -> None:
        self.counts = CaptureCounts()
        self._root, self._model_id, self._redact = root, model_id, redact
        self._fraction, self._max_bytes = fraction, max_bytes
        self._random = random.Random()
        self._writer = AnswerWriter(root / name, rows_per_part=rows_per_part)
        self._queue: queue.Queue[tuple[Sequence[int], Sequence[int]] | None] = queue.Queue(_QUEUED)
        self._thread = threading.Thread(target=self._work, name="traffic-capture", daemon=True)
        self._thread.start()

    def offer(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        """A finished request's token ids. Returns at once."""
        self.counts.offered += 1
        if len(output) < MIN_OUTPUT_TOKENS or self._random.random() >= self._fraction:
            return
        try:
            self._queue.put_nowait((tuple(prompt), tuple(output)))
        except queue.Full:
            self.counts.dropped += 1

    def close(self, timeout_s: float = _CLOSING_S) -> None:
        """Write what is waiting; given up, with its thread, where the disk takes longer."""
        until_s = time.monotonic() + timeout_s
        with suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
        self._thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        while True:
            try:
                offered = self._queue.get(timeout=_IDLE_S)
            except queue.Empty:
                self._write(self._writer.flush)
                continue
            if offered is None:
                break
            self._write(partial(self._keep, *offered))
        self._write(self._writer.flush)
        self._write(self._make_room)

    def _write(self, work: Callable[[], None]) -> None:
        """A disk that takes nothing costs what was to be kept, not the capture; nor does what
        cannot be redacted."""
        try:
            work()
        except Exception as error:
            lost = self._writer.drop_pending()
            self.counts.lost += lost
            log.warning("%d captured answers are lost: %s", lost, error)

    def _keep(self, prompt: Sequence[int], output: Sequence[int]) -> None:
        prompt, output = self._redact(prompt, output) if self._redact else (prompt, output)
        if len(output) < MIN_OUTPUT_TOKENS:
            return
        id_ = uuid.uuid4().hex
        self.counts.kept += 1
        self._writer.add(Answer(id_, "served", self._model_id, tuple(prompt), tuple(output)))
        self._make_room()

    def _make_room(self) -> None:
        """Remove the oldest parts beyond the bound."""
        sized = []
        for part in answer_parts(self._root):
            try:
                status = part.stat()
            except FileNotFoundError:  # another replica made room
                continue
            sized.append((_written_ns(part, status.st_mtime_ns), part, status.st_size))
        total = sum(size for _, _, size in sized)
        for _, part, size in sorted(sized):
            if total <= self._max_bytes:
                return
            part.unlink(missing_ok=True)
            total -= size


def _written_ns(part: Path, dated_ns: int) -> int:
    """When a part was written. One dated to the future, by a clock that was set back since, gets
    a date a moment ago: else it would outlive all that is written until that future has come."""
    now_ns = time.time_ns()
    if dated_ns <= now_ns:
        return dated_ns
    with suppress(OSError):  # made room for meanwhile, or somebody else's
        os.utime(part, ns=(now_ns - _A_MOMENT_NS, now_ns - _A_MOMENT_NS))
    return now_ns - _A_MOMENT_NS
