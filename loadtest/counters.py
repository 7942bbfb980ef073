"""What a server counted of its own speculation: two readings, before a run and after it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from loadtest.servers import Server

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
    """Totals of a model, -1 each where its server counts nothing: see `RunRow`."""

    committed_tokens: int = -1
    verified_drafts: int = -1
    draft_tokens: int = -1
    accepted_tokens: int = -1

    def since(self, before: Counts) -> Counts:
        """What was counted between two readings; nothing where a restart lost count."""
        differences = [now - then for now, then in zip(self, before, strict=True)]
        if -1 in self or -1 in before or min(differences) < 0:
            return Counts()
        return Counts(*differences)


def read_counts(server: Server, model: str) -> Counts:
    """A model's totals by now. A server that tells nothing is no error: its counts are -1."""
    try:
        if server.has_fleet:
            time.sleep(SETTLE_S)
            return of_fleet(fleet_models(server.url, server.headers).get(model, {}))
        return of_prometheus(_get(f"{server.url}/metrics", server.headers).text)
    except (httpx.HTTPError, ValueError, KeyError):
        return Counts()


def num_replicas(server: Server, model: str) -> int:
    """Targets of a model; 1 where its server does not say."""
    if not server.has_fleet:
        return 1
    return len(fleet_models(server.url, server.headers)[model]["targets"])


def fleet_models(url: str, headers: Mapping[str, str] = _NO_KEY) -> dict[str, Any]:
    """What a fleet says of its models, by id. Raises httpx.HTTPError."""
    return dict(_get(f"{url}/fleet", headers).json()["models"])


def of_fleet(model: Mapping[str, Any]) -> Counts:
    """From a model's entry in `GET /fleet`; one that does not draft has no statistics."""
    stats = [target["stats"] for target in model.get("targets", ()) if target["stats"]]
    if not stats:
        return Counts()
    return Counts(*(sum(one.get(name, 0) for one in stats) for name in Counts._fields))


def of_prometheus(text: str) -> Counts:
    """From `GET /metrics` of vLLM, summed over engines; its other series are left alone."""
    totals = {}
    for name, series in _VLLM.items():
        values = re.findall(rf"^{series}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
        totals[name] = sum(int(float(value)) for value in values) if values else -1
    return Counts(**totals)


def _get(url: str, headers: Mapping[str, str]) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=30).raise_for_status()
