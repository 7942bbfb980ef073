"""What drafting costs on this machine: the engine's step, and the wire around it."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

import torch

from drafters.engine import DraftEngine
from drafters.messages import DraftBatch, StepBatch, StepRow
from drafters.sources import RemoteDraftSource

_WARM_UP = 3  # steps
NEW_ROWS = 3  # a usual step: two drafts accepted and the target's own token


class SteadySessions:
    """Sessions of `engine` with a full window that each grow by `NEW_ROWS` tokens a step."""

    def __init__(self, engine: DraftEngine, num_sessions: int, num_context_tokens: int) -> None:
        self._model = engine.model
        self._num_sessions = num_sessions
        self._end = num_context_tokens

    def opening(self) -> StepBatch:
        return self._batch(0, self._end)

    def next(self) -> StepBatch:
        start = self._end
        self._end += NEW_ROWS
        return self._batch(start, NEW_ROWS)

    def _batch(self, start: int, num_rows: int) -> StepBatch:
        shape = self._model.config.shape
        tokens = (5,) * num_rows if shape.needs_tokens else ()
        rows = tuple(
            StepRow(f"r{i}", epoch=0, start=start, num_rows=num_rows, anchor=5, tokens=tokens)
            for i in range(self._num_sessions)
        )
        features = torch.randn(
            self._num_sessions * num_rows,
            shape.feature_size,
            dtype=self._model.dtype,
            device=self._model.device,
        )
        return StepBatch(f"t{self._num_sessions}", rows, features)


def draft_times_ms(
    engine: DraftEngine, num_context_tokens: int, sessions: list[int], repeats: int
) -> dict[int, float]:
    """Median milliseconds of an engine step, by number of sessions with a full window.

    Features lie on the drafter's device, drafts end on the processor, as they do colocated.
    """
    times = {}
    for count in sessions:
        steady = SteadySessions(engine, count, num_context_tokens)
        engine.step([steady.opening()])
        steps = [_step_ms(engine, steady.next()) for _ in range(_WARM_UP + repeats)]
        times[count] = statistics.median(steps[_WARM_UP:])
        engine.close_target(f"t{count}")
    return times


def _step_ms(engine: DraftEngine, batch: StepBatch) -> float:
    began = time.perf_counter()
    (drafts,) = engine.step([batch])
    drafts.tokens.cpu(), drafts.confidences.cpu()  # waits for the device
    return 1000 * (time.perf_counter() - began)


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
