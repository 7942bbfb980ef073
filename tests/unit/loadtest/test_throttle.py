from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.throttle import throttled

SPIN = "while True: pass"


@pytest.fixture
def spinning() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    time.sleep(0.1)
    yield process.pid
    process.kill()
    process.wait()


def ticks(pid: int) -> int:
    """Processor time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_throttled_process_is_stopped_part_of_the_time_and_goes_on_after(spinning):
    with throttled([spinning], 0.1, period_s=0.2):
        states = {state(spinning) for _ in range(100) if time.sleep(0.01) is None}
    assert "T" in states
    before = ticks(spinning)
    time.sleep(0.3)
    assert state(spinning) != "T"
    assert ticks(spinning) > before


def test_at_full_speed_it_is_left_alone(spinning):
    with throttled([spinning], 1.0):
        assert {state(spinning) for _ in range(20) if time.sleep(0.005) is None} <= {"R", "S"}


def test_a_process_that_ends_meanwhile_is_no_error():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.1)"])
    with throttled([process.pid], 0.5):
        process.wait()


@pytest.mark.parametrize("speed", [0.0, -1.0, 1.5])
def test_a_speed_that_is_no_share_is_refused(spinning, speed):
    with pytest.raises(ValueError, match="share"), throttled([spinning], speed):
        pass


def test_a_process_that_is_not_there_is_refused():
    with pytest.raises(ProcessLookupError), throttled([2**22 + 1], 0.5):
        pass
