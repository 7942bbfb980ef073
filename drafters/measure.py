"""What drafting costs on this machine: the engine's step, and the wire around it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from drafters.engine import DraftEngine
from drafters.messages import DraftBatch, DraftShape, StepBatch, StepRow
from drafters.sources import RemoteDraftSource

NEW_ROWS = 3  # a usual step: two drafts accepted and the target's own token


def median_ms(work: Callable[[], object], repeats: int) -> float:
    """The median time of `work` after a few calls to warm up."""
    for _ in range(3):
        work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return 1000 * statistics.median(times)


class SteadySessions:
    """Sessions with a full context window that each grow by `NEW_ROWS` tokens a step."""

    def __init__(self, num_sessions: int, shape: DraftShape, num_context_tokens: int) -> None:
        self._num_sessions = num_sessions
        self._shape = shape
        self._end = num_context_tokens

    def opening(self) -> StepBatch:
        return self._batch(0, self._end)

    def next(self) -> StepBatch:
        start = self._end
        self._end += NEW_ROWS
        return self._batch(start, NEW_ROWS)

    def _batch(self, start: int, num_rows: int) -> StepBatch:
        tokens = (5,) * num_rows if self._shape.needs_tokens else ()
        rows = tuple(
            StepRow(f"r{i}", epoch=0, start=start, num_rows=num_rows, anchor=5, tokens=tokens)
            for i in range(self._num_sessions)
        )
        features = torch.randn(self._num_sessions * num_rows, self._shape.feature_size)
        return StepBatch(f"t{self._num_sessions}", rows, features)


def draft_times_ms(
    engine: DraftEngine, num_context_tokens: int, sessions: list[int], repeats: int
) -> dict[int, float]:
    """Median milliseconds of an engine step, by number of sessions with a full window."""
    times = {}
    for count in sessions:
        steady = SteadySessions(count, engine.model.config.shape, num_context_tokens)
        engine.step([steady.opening()])
        times[count] = median_ms(partial(_grow, engine, steady), repeats)
        engine.close_target(f"t{count}")
    return times


def _grow(engine: DraftEngine, steady: SteadySessions) -> None:
    engine.step([steady.next()])


class Instant:
    """A drafter that takes no time: what remains is the wire."""

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        return [
            DraftBatch(
                torch.zeros(b.num_drafts, self._block_size, dtype=torch.int64),
                torch.ones(b.num_drafts, self._block_size),
            )
            for b in batches
        ]


_SERVER = """
import sys
from drafters.measure import Instant
from drafters.server import DraftServer
encrypted = sys.argv[1] == "encrypted"
server = DraftServer(Instant(7), host="127.0.0.1", secret="s", encrypted=encrypted)
print(server.address, server.public_key or "", flush=True)
server.serve_forever()
"""


def round_trip_ms(
    num_rows: int, feature_size: int, dtype: torch.dtype, repeats: int, *, encrypted: bool = False
) -> tuple[float, float]:
    """Median and 99th percentile of a step to a drafter in another process and back.

    Every row carries 8 feature rows of `dtype`. `encrypted`: under CURVE.
    """
    command = [sys.executable, "-c", _SERVER, "encrypted" if encrypted else "plain"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        address, *key = server.stdout.readline().split()
        source = RemoteDraftSource(deadline_s=5, secret="s")
        source.set_address(address, server_key=key[0] if key else None)
        rows = tuple(StepRow(f"r{i}", 0, 0, 8, anchor=5) for i in range(num_rows))
        batch = StepBatch("t", rows, torch.randn(8 * num_rows, feature_size).to(dtype))
        times = []
        for _ in range(repeats + 20):
            began = time.perf_counter()
            if source.draft(batch) is None:
                raise RuntimeError("the drafter process did not answer")
            times.append(1000 * (time.perf_counter() - began))
        source.close()
    finally:
        server.kill()
        server.wait()
    times = sorted(times[20:])
    return times[len(times) // 2], times[int(0.99 * len(times))]
