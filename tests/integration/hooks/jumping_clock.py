"""A wall clock that jumps, at once and for all Python processes of an application.

What `time.time` and `time.time_ns` say is off by the seconds in a file. Monotonic clocks go on, as
they do where the system's clock is set. Dates of files, `datetime` and what is not Python (Ray's
raylet and GCS) are not reached.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

PATH = "DSPARK_TEST_CLOCK"  # in the environment: the file
_OFF_S = struct.Struct("q")

_time, _time_ns = time.time, time.time_ns
_off: mmap.mmap | bytes = _OFF_S.pack(0)


def make(path: Path) -> None:
    """A file that says that the clock is right."""
    path.write_bytes(_OFF_S.pack(0))


def jump_to(path: Path, off_s: int) -> None:
    """From now on the clock is off by so much. In place: processes have the file mapped."""
    with path.open("r+b") as file:
        file.write(_OFF_S.pack(off_s))


def wall_s() -> float:
    return _time() + _OFF_S.unpack_from(_off)[0]


def wall_ns() -> int:
    return _time_ns() + int(_OFF_S.unpack_from(_off)[0]) * 10**9


def install() -> None:
    global _off
    with Path(os.environ[PATH]).open("rb") as file:
        _off = mmap.mmap(file.fileno(), _OFF_S.size, access=mmap.ACCESS_READ)
    time.time, time.time_ns = wall_s, wall_ns
