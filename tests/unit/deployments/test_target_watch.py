"""When a target ends itself: its engine is dead or wedged. A full or idle one is left alone."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.v1.engine.exceptions import EngineDeadError

from deployments import target as target_module
from deployments.engine import vital as vital_module
from deployments.engine.vital import dying_with_the_engine
from deployments.progress import ProgressWatch
from deployments.target import TargetServer


class EndedError(Exception):
    """This process would be gone."""


def end_process(reason: str) -> None:
    raise EndedError(reason)


class Silent(vital_module.Vital):
    """Of an engine that never makes a token."""

    def __init__(self) -> None:
        self.asked = 0

    async def _one_token(self) -> None:
        self.asked += 1
        await asyncio.Event().wait()


class Vital:
    """An engine's signs of life, tick by tick: results so far, and None where it is dead."""

    def __init__(self, *results: int | None) -> None:
        self._results = list(results)
        self.num_probes = 0

    @property
    def is_dead(self) -> bool:
        if not self._results:
            raise StopIteration  # the test is over
        return self._results[0] is None

    @property
    def num_results(self) -> int | None:
        return self._results.pop(0)

    def probe(self) -> None:
        self.num_probes += 1


def watched(monkeypatch: pytest.MonkeyPatch, vital: Vital, limit_s: float = 4) -> str | None:
    """Why the target ended itself; None where it did not."""
    monkeypatch.setattr(target_module, "end_process", end_process)
    monkeypatch.setattr(target_module, "TICK_S", 0.0)
    target: Any = SimpleNamespace(engine=SimpleNamespace(vital=vital))
    try:
        asyncio.run(TargetServer._watch_forever(target, ProgressWatch(limit_s)))
    except EndedError as ended:
        return str(ended)
    except RuntimeError:  # a coroutine's StopIteration
        return None
    raise AssertionError("it watches for ever")


def test_a_dead_engine_as_of_a_killed_rank_takes_its_replica_along(monkeypatch):
    assert watched(monkeypatch, Vital(1, 2, None)) == "its engine died"


def test_an_engine_that_hangs_does_after_a_probe(monkeypatch):
    vital = Vital(*[7] * 9)
    assert watched(monkeypatch, vital) == "nothing came from its engine for 4 s"
    assert vital.num_probes == 1


def test_one_that_is_full_or_idle_does_not(monkeypatch):
    assert watched(monkeypatch, Vital(*range(40))) is None
    idle = Vital(*[i // 3 for i in range(40)])  # each probe comes back
    assert watched(monkeypatch, idle) is None
    assert idle.num_probes > 5


def test_a_target_whose_engine_makes_no_first_token_does_not_start():
    vital = Silent()
    target: Any = SimpleNamespace(engine=SimpleNamespace(vital=vital), _replica_id="a")
    with pytest.raises(RuntimeError, match=r"no token within 0.01 s .*stall_limit_s higher"):
        asyncio.run(TargetServer._answer_once(target, 0.01))
    assert vital.asked == 1


def test_a_request_that_finds_the_engine_dead_ends_the_replica(monkeypatch):
    monkeypatch.setattr(vital_module, "end_process", end_process)

    async def generate(*args: Any, **kwargs: Any) -> Any:
        yield "a token"
        raise EngineDeadError

    async def run() -> list[str]:
        return [one async for one in dying_with_the_engine(generate)("prompt")]

    with pytest.raises(EndedError, match="its engine died"):
        asyncio.run(run())
