"""What a server counted of its own speculation: two readings, before a run and after it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import httpx

from loadtest.servers import Server

_TOTALS = ("committed_tokens", "verified_drafts", "draft_tokens", "accepted_tokens")
_BY_POSITION = ("admitted_by_position", "accepted_by_position", "expected_by_position")
_NO_KEY: Mapping[str, str] = {}
SETTLE_S = 1.5  # three exchanges, until `GET /fleet` has counted a run
# vLLM's Prometheus names.
_VLLM = {
    "committed_tokens": "vllm:generation_tokens_total",
    "verified_drafts": "vllm:spec_decode_num_drafts_total",
    "draft_tokens": "vllm:spec_decode_num_draft_tokens_total",
    "accepted_tokens": "vllm:spec_decode_num_accepted_tokens_total",
}


class Counts(NamedTuple):
    """Totals of a model, -1 each where its server counts nothing, and by position, empty where
    it does not count those: see `RunRow`."""

    committed_tokens: int = -1
    verified_drafts: int = -1
    draft_tokens: int = -1
    accepted_tokens: int = -1
    admitted_by_position: tuple[int, ...] = ()
    accepted_by_position: tuple[int, ...] = ()
    expected_by_position: tuple[float, ...] = ()

    def since(self, before: Counts) -> Counts:
        """What was counted between two readings; nothing where a restart lost count."""
        totals = [getattr(self, name) - getattr(before, name) for name in _TOTALS]
        if -1 in self or -1 in before or min(totals) < 0:
            return Counts()
        positions = [_less(getattr(self, name), getattr(before, name)) for name in _BY_POSITION]
        return Counts(*totals, *positions)


def read_counts(server: Server, model: str) -> Counts:
    """A model's totals by now. A server that tells nothing is no error: its counts are -1."""
    try:
        if server.has_fleet:
            time.sleep(SETTLE_S)
            return of_fleet(fleet_models(server.url, server.headers).get(model, {}))
        return of_prometheus(_get(f"{server.url}/metrics", server.headers).text)
    except (httpx.HTTPError, ValueError, KeyError):
        return Counts()


class Pools(NamedTuple):
    """Replicas of a model's target, and of its drafter."""

    targets: int
    drafters: int


def pools(server: Server, model: str) -> Pools:
    """One target where its server does not say."""
    if not server.has_fleet:
        return Pools(1, 0)
    fleet = fleet_models(server.url, server.headers)[model]
    return Pools(len(fleet["targets"]), len(fleet.get("drafters", ())))


def fleet_models(url: str, headers: Mapping[str, str] = _NO_KEY) -> dict[str, Any]:
    """What a fleet says of its models, by id. Raises httpx.HTTPError."""
    return dict(_get(f"{url}/fleet", headers).json()["models"])


def of_fleet(model: Mapping[str, Any]) -> Counts:
    """From a model's entry in `GET /fleet`; one that does not draft has no statistics."""
    stats = [target["stats"] for target in model.get("targets", ()) if target["stats"]]
    if not stats:
        return Counts()
    totals = [sum(one.get(name, 0) for one in stats) for name in _TOTALS]
    return Counts(
        *totals, *(_summed([one.get(name, ()) for one in stats]) for name in _BY_POSITION)
    )


def _summed(rows: Sequence[Sequence[float]]) -> tuple[Any, ...]:
    """By position over targets; nothing where one of them counts otherwise."""
    if len({len(row) for row in rows}) != 1:
        return ()
    return tuple(map(sum, zip(*rows, strict=True)))


def _less(now: Sequence[float], before: Sequence[float]) -> tuple[Any, ...]:
    if len(now) != len(before):
        return ()
    return tuple(one - then for one, then in zip(now, before, strict=True))


def of_prometheus(text: str) -> Counts:
    """From `GET /metrics` of vLLM, summed over engines; its other series are left alone."""
    totals: dict[str, Any] = {}
    for name, series in _VLLM.items():
        values = re.findall(rf"^{series}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        totals[name] = sum(int(float(value)) for value in values) if values else -1
    return Counts(**totals)


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=30).raise_for_status()
