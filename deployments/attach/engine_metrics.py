"""What an engine says of itself: `GET /metrics` of vLLM and SGLang, as Prometheus reads it. Pure.

Names as of vLLM 0.29 (and its older name of the cache's usage) and SGLang's `--enable-metrics`.
Ranks of one SGLang engine may report the same thing each: rank 0 stands for all. Data-parallel
engines behind one address are added up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import fsum, isfinite
from typing import Any, NamedTuple

_LINE = re.compile(r"^([\w:]+)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_RANKS = ("tp_rank", "pp_rank")


class _Names(NamedTuple):
    """Of one kind of engine; each under the first of its names that is there. Totals are sums
    over all series, usages means."""

    running: tuple[str, ...]
    waiting: tuple[str, ...]
    kv_usage: tuple[str, ...]
    prompt_tokens: tuple[str, ...]
    committed_tokens: tuple[str, ...]
    verified_drafts: tuple[str, ...] = ()
    draft_tokens: tuple[str, ...] = ()
    accepted_tokens: tuple[str, ...] = ()
    acceptance_length: tuple[str, ...] = ()
    kv_tokens: tuple[str, ...] = ()
    realtime_tokens: tuple[str, ...] = ()


_KINDS = {
    "vllm": _Names(
        running=("vllm:num_requests_running",),
        waiting=("vllm:num_requests_waiting",),
        kv_usage=("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
        prompt_tokens=("vllm:prompt_tokens_total",),
        committed_tokens=("vllm:generation_tokens_total",),
        verified_drafts=("vllm:spec_decode_num_drafts_total",),
        draft_tokens=("vllm:spec_decode_num_draft_tokens_total",),
        accepted_tokens=("vllm:spec_decode_num_accepted_tokens_total",),
    ),
    "sglang": _Names(
        running=("sglang:num_running_reqs",),
        waiting=("sglang:num_queue_reqs",),
        kv_usage=("sglang:token_usage",),
        prompt_tokens=("sglang:prompt_tokens_total",),
        committed_tokens=("sglang:generation_tokens_total",),
        acceptance_length=("sglang:spec_accept_length",),
        kv_tokens=("sglang:max_total_num_tokens",),
        realtime_tokens=("sglang:realtime_tokens_total",),
    ),
}
_MEANS = ("kv_usage", "acceptance_length")
_CACHE_CONFIG = "vllm:cache_config_info"


@dataclass(frozen=True, slots=True)
class EngineReading:
    """One reading; what the engine does not say is None.

    `running` and `waiting` are requests now, of all its clients, `kv_usage` the share of
    `kv_tokens` in use. Tokens and drafts are since it started; `realtime_tokens`, read or made,
    where the others are counted as requests end. `acceptance_length` counts the bonus token and
    is told where drafts are not counted.
    """

    kind: str
    running: float | None = None
    waiting: float | None = None
    kv_usage: float | None = None
    kv_tokens: float | None = None
    prompt_tokens: float | None = None
    committed_tokens: float | None = None
    verified_drafts: float | None = None
    draft_tokens: float | None = None
    accepted_tokens: float | None = None
    acceptance_length: float | None = None
    realtime_tokens: float | None = None

    @property
    def progress(self) -> float:
        """Moves when the engine does, whoever it works for."""
        counts = (self.prompt_tokens, self.committed_tokens, self.realtime_tokens)
        return fsum(count for count in counts if count is not None)

    def counted(self) -> dict[str, int]:
        """What our own adapter would have counted, under its names; unknown is left out."""
        counts = {
            "requests": self.running,
            "committed_tokens": self.committed_tokens,
            "verified_drafts": self.verified_drafts,
            "draft_tokens": self.draft_tokens,
            "accepted_tokens": self.accepted_tokens,
        }
        return {name: round(value) for name, value in counts.items() if value is not None}


class _Series(NamedTuple):
    labels: Mapping[str, str]
    value: float


def read_metrics(text: str) -> EngineReading | None:
    """None where `text` has nothing of an engine that we know."""
    for kind, names in _KINDS.items():
        series = _series(text, f"{kind}:")
        if not series:
            continue
        values: dict[str, Any] = {
            field: _one(series, alternatives, is_mean=field in _MEANS)
            for field, alternatives in names._asdict().items()
        }
        if values["kv_tokens"] is None:
            values["kv_tokens"] = _cache_tokens(series.get(_CACHE_CONFIG, []))
        return EngineReading(kind, **values)
    return None


def _series(text: str, prefix: str) -> dict[str, list[_Series]]:
    found: dict[str, list[_Series]] = {}
    for name, one in _lines(text, prefix):
        found.setdefault(name, []).append(one)
    return found


def _lines(text: str, prefix: str) -> Iterator[tuple[str, _Series]]:
    for line in text.splitlines():
        if not line.startswith(prefix):
            continue
        match = _LINE.match(line)
        if match is None:
            continue
        name, labels, number = match.groups()
        try:
            value = float(number)
        except ValueError:
            continue
        known = dict(_LABEL.findall(labels or ""))
        if isfinite(value) and all(known.get(rank, "0") == "0" for rank in _RANKS):
            yield name, _Series(known, value)


def _one(
    series: Mapping[str, list[_Series]], alternatives: tuple[str, ...], *, is_mean: bool
) -> float | None:
    for name in alternatives:
        values = [one.value for one in series.get(name, ())]
        if values:
            return fsum(values) / (len(values) if is_mean else 1)
    return None


def _cache_tokens(infos: list[_Series]) -> float | None:
    """Of vLLM's description of its cache, one per data-parallel engine."""
    tokens = 0.0
    for info in infos:
        try:
            tokens += float(info.labels["num_gpu_blocks"]) * float(info.labels["block_size"])
        except (KeyError, ValueError):
            return None
    return tokens or None
