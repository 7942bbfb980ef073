from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.engine.rank_queues import SPIN_MS, bound_spin, register


def spin_condition() -> Any:
    """As vLLM's: `wait` watches for `busy_loop_s` after the last read, then sleeps."""

    @dataclass
    class SpinCondition:
        busy_loop_s: float = 1.0
        idle_s: float = 0.1  # since the last read
        did: list[str] = field(default_factory=list)

        def wait(self, timeout_ms: int | None = None) -> None:
            watches = self.idle_s <= self.busy_loop_s
            self.did.append("watched" if watches else f"slept {timeout_ms}")

    return SpinCondition


def test_who_has_watched_for_long_enough_sleeps_until_notified():
    bounded = spin_condition()
    bound_spin(bounded, 0.05)
    soon, late = bounded(idle_s=0.01), bounded()
    soon.wait(7)
    late.wait(7)
    late.wait(60_000)
    late.wait()
    assert soon.did == ["watched"]
    assert late.did == ["slept 7", "slept 20", "slept 20"]


def test_a_bound_lengthens_nothing_and_the_first_one_stays():
    bounded = spin_condition()
    bound_spin(bounded, 5.0)
    bound_spin(bounded, 0.0)
    one = bounded()
    one.wait()
    assert one.busy_loop_s == 1.0
    assert one.did == ["watched"]


@pytest.mark.parametrize(("given", "bound_s"), [("50", 0.05), ("0", 0.0), (None, 1.0)])
def test_vllm_is_changed_only_where_the_environment_says_so(monkeypatch, given, bound_s):
    queue = pytest.importorskip("vllm.distributed.device_communicators.shm_broadcast")
    theirs = spin_condition()
    monkeypatch.setattr(queue, "SpinCondition", theirs)
    monkeypatch.delenv(SPIN_MS, raising=False)
    if given is not None:
        monkeypatch.setenv(SPIN_MS, given)
    register()
    one = theirs()
    one.wait()
    assert one.busy_loop_s == bound_s
