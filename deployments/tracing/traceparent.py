"""Which requests are traced, and which of their draft rounds. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRACEPARENT = "traceparent"  # the header of W3C's Trace Context
TRACE_XARG = "dspark_trace"  # the same in a request's `vllm_xargs`, for the engine's worker

_FORMAT = re.compile(
    r"(?!ff)[0-9a-f]{2}-((?!0{32})[0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?"
)


@dataclass(frozen=True, slots=True)
class TraceParent:
    """A span of another process, to go on within: 16 and 8 bytes in hexadecimal."""

    trace_id: str
    span_id: str
    is_sampled: bool

    @classmethod
    def parse(cls, text: str) -> TraceParent | None:
        """None for what is no `traceparent`: whoever sent it is not traced then."""
        found = _FORMAT.fullmatch(text)
        if found is None:
            return None
        trace_id, span_id, flags = found.groups()
        return cls(trace_id, span_id, bool(int(flags, 16) & 1))

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{int(self.is_sampled):02x}"


def is_sampled(parent: TraceParent | None, sample: float, draw: float) -> bool:
    """As the client decided for its own trace; without one, for a share `sample` of requests.

    `draw` is a random number in [0, 1).
    """
    return draw < sample if parent is None else parent.is_sampled


def is_traced_round(number: int) -> bool:
    """Whether the drafter records a request's draft round, counted from 1: the 1st, 2nd, 4th,
    8th and so on, so that long answers do not make long traces."""
    return number & (number - 1) == 0
