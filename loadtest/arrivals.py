"""When requests are to be sent: closed loops by clients, open loops by rate. Pure.

A load point is written `closed:8` (clients), `poisson:2.5` (requests per second), `bursts:2.5`
(the same on average, in bursts of eight), `ramp:4` (from none to that, evenly) or
`trace:FILE` (a JSONL file with a `timestamp` in milliseconds per request, as Mooncake's are).
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path

CLOSED, POISSON, BURSTS, RAMP, TRACE = KINDS = ("closed", "poisson", "bursts", "ramp", "trace")
_BURST = 8  # requests
_MS = 1e-3


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """Clients of a closed loop, or requests per second; a trace's own offsets in seconds.

    `context_tokens` is the length that prompts are filled up to, 0 for as they are. `trace` is
    the digest of a trace's file, eight hexadecimal digits: another file is another load.
    """

    kind: str
    value: float
    context_tokens: int = 0
    offsets_s: tuple[float, ...] = ()
    trace: str = ""

    @property
    def clients(self) -> int | None:
        """Of a closed loop; None for an open one."""
        return int(self.value) if self.kind == CLOSED else None

    @property
    def num_requests(self) -> int:
        """Requests of a closed loop: a few per client, more where answers come slower."""
        assert self.clients is not None
        return max(6, min(4 * self.clients, 2 * self.clients + 32))


def parse_load(text: str, context_tokens: int = 0) -> LoadPoint:
    """A load point as it is written. Raises ValueError, OSError for a trace that is not there."""
    kind, _, value = text.partition(":")
    if kind not in KINDS or not value:
        raise ValueError(f"{text!r} is no load; write one of {', '.join(KINDS)}, a colon, a value")
    if kind == TRACE:
        path = Path(value)
        offsets_s = read_trace(path)
        rate = len(offsets_s) / (offsets_s[-1] or 1.0)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        return LoadPoint(TRACE, rate, context_tokens, offsets_s, digest)
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if number <= 0 or (kind == CLOSED and number != int(number)):
        raise ValueError(f"{text!r}: a {kind} load needs a number above 0")
    return LoadPoint(kind, number, context_tokens)


def read_trace(path: Path) -> tuple[float, ...]:
    """A recorded trace's arrivals in seconds from its first. Raises ValueError naming the line."""
    stamps = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            stamps.append(float(json.loads(line)["timestamp"]) * _MS)
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path}:{number}: needed is a JSON object with `timestamp`") from None
    if not stamps:
        raise ValueError(f"{path} holds no requests")
    return tuple(stamp - min(stamps) for stamp in sorted(stamps))


def arrival_offsets_s(point: LoadPoint, duration_s: float, seed: int) -> list[float]:
    """Arrivals of an open loop within `duration_s`, the same for every arm with the same seed."""
    if point.kind == TRACE:
        return [offset for offset in point.offsets_s if offset <= duration_s]
    rng = random.Random(seed)
    if point.kind == BURSTS:
        starts = _poisson(rng, point.value / _BURST, duration_s)
        return [start for start in starts for _ in range(_BURST)]
    offsets = _poisson(rng, point.value, duration_s)
    if point.kind == RAMP:
        # Thinning: kept with the share of the peak rate that holds at that time.
        kept = [offset for offset in offsets[1:] if rng.random() < offset / duration_s]
        return [0.0, *kept]
    return offsets


def _poisson(rng: random.Random, per_s: float, duration_s: float) -> list[float]:
    """The first arrives at 0, so that no run is empty."""
    offsets = [0.0]
    while (following := offsets[-1] + rng.expovariate(per_s)) <= duration_s:
        offsets.append(following)
    return offsets
