"""A target whose ranks emit different tokens says so to Serve, which replaces it."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve.llm.deployment import LLMServer

from cluster.held_plan import HeldPlan
from deployments.target import TargetServer


def target(monkeypatch: pytest.MonkeyPatch, *digests: str) -> Any:
    """A target with no engine behind it but ranks that have emitted tokens of these digests."""

    async def ranks(method: str, **_: Any) -> list[dict[str, Any]]:
        assert method == "dspark_stats"
        return [{"committed_digest": digest} for digest in digests]

    async def is_well(_: Any) -> None:
        pass

    monkeypatch.setattr(LLMServer, "check_health", is_well)
    # There is no engine to stop.
    monkeypatch.setattr(TargetServer, "__del__", lambda _: None, raising=False)
    one = object.__new__(TargetServer)
    lives = SimpleNamespace(done=lambda: False)
    gate = SimpleNamespace(take_traffic=lambda: None, snapshot=dict)
    monkeypatch.setattr("deployments.target.replica_load", lambda *_: None)
    vars(one).update(
        _drafts=True, _ranks_agree=True, _num_exchanges=0, _reported={}, _is_new=False,
        _replica_id="r", _placement="split", _pair=None, _step_costs_of=None, _held=HeldPlan(),
        _watch=lives, _exchange=lives, _gate=gate, collective_rpc=ranks,
        engine=SimpleNamespace(max_num_seqs=8), _llm_config=SimpleNamespace(model_id="m"),
    )  # fmt: skip
    return one


def test_ranks_that_agree_are_well(monkeypatch):
    one = target(monkeypatch, "a", "a")
    report = asyncio.run(one._report())
    assert report.stats["ranks_agree"] is True
    asyncio.run(one.check_health())


def test_ranks_that_differ_are_not(monkeypatch):
    one = target(monkeypatch, "a", "b")
    report = asyncio.run(one._report())
    assert report.stats["ranks_agree"] is False
    with pytest.raises(RuntimeError, match="the ranks of target r emitted different tokens"):
        asyncio.run(one.check_health())
