"""What stands between a client and its first token: servers side by side, one request at a time.

The same prompts go to every server in turn, so that all see the same machine.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from loadtest.process_cpu import cpu_by_part, cpu_table

_WARM_UP = 5  # requests that are not counted


@dataclass(frozen=True, slots=True)
class Timed:
    """One streamed request. `tpot_s` is the mean gap after the first token."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True)
class ServerTimes:
    """Medians of one server, and with many requests at once its throughput and what its processes
    take, by part; nothing there where they are not known."""

    name: str
    ttft_s: float
    ttft_p90_s: float
    tpot_s: float
    tokens_per_s: float
    cpu_ms_per_token: Mapping[str, float]


def model_of(client: httpx.Client, url: str) -> str:
    """The first model that a server lists."""
    listed = client.get(f"{url}/v1/models").raise_for_status().json()
    return str(listed["data"][0]["id"])


def timed_request(
    client: httpx.Client, url: str, model: str, prompt: str, max_tokens: int
) -> Timed:
    """Stream `max_tokens` tokens, greedy. Raises ValueError where another number came."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began_s, first_s, num_tokens = time.perf_counter(), 0.0, 0
    with client.stream("POST", f"{url}/v1/completions", json=body) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines():
            if not line.startswith("data: {"):
                continue
            first_s = first_s or time.perf_counter()
            usage = json.loads(line[6:]).get("usage")
            num_tokens = usage["completion_tokens"] if usage else num_tokens
    ended_s = time.perf_counter()
    if num_tokens != max_tokens:
        raise ValueError(f"{url} gave {num_tokens} tokens, not {max_tokens}")
    return Timed(first_s - began_s, (ended_s - first_s) / max(1, max_tokens - 1))


def side_by_side(
    servers: Mapping[str, str],
    prompts: Sequence[str],
    *,
    max_tokens: int,
    concurrency: int,
    roots: Mapping[str, int],
    progress: Callable[[str], None],
) -> list[ServerTimes]:
    """Times of every server, given as name and base URL. `roots` are the processes that started
    them, where they are known."""
    limits = httpx.Limits(max_connections=concurrency)
    with httpx.Client(timeout=120, limits=limits) as client:
        models = {name: model_of(client, url) for name, url in servers.items()}

        def ask(name: str, prompt: str) -> Timed:
            return timed_request(client, servers[name], models[name], prompt, max_tokens)

        times: dict[str, list[Timed]] = {name: [] for name in servers}
        for i, prompt in enumerate(prompts):
            for name in servers:
                timed = ask(name, f"{i}. {prompt}")
                if i >= _WARM_UP:
                    times[name].append(timed)
        progress("one at a time: done")
        num_tokens = len(prompts) * max_tokens
        rates: dict[str, float] = {}
        taken: dict[str, Counter[str]] = {name: Counter() for name in servers}
        for name in servers:
            before = cpu_by_part(roots[name]) if name in roots else Counter()
            began_s = time.perf_counter()
            with ThreadPoolExecutor(concurrency) as pool:
                list(pool.map(ask, [name] * len(prompts), prompts))
            rates[name] = num_tokens / (time.perf_counter() - began_s)
            if name in roots:
                taken[name] = cpu_by_part(roots[name]) - before
    return [
        _summary(
            name,
            times[name],
            rates[name],
            {part: 1000 * cpu_s / num_tokens for part, cpu_s in taken[name].items()},
        )
        for name in servers
    ]


def _summary(
    name: str,
    times: Sequence[Timed],
    tokens_per_s: float,
    cpu_ms_per_token: Mapping[str, float],
) -> ServerTimes:
    ttft = sorted(timed.ttft_s for timed in times)
    tpot_s = statistics.median(timed.tpot_s for timed in times)
    p90 = ttft[int(0.9 * (len(ttft) - 1))]
    ttft_s = statistics.median(ttft)
    return ServerTimes(name, ttft_s, p90, tpot_s, tokens_per_s, cpu_ms_per_token)


def table(times: Sequence[ServerTimes]) -> str:
    """As Markdown; the first server is compared with. A second table has what processes take."""
    lines = [
        "| server | first token, ms | beyond the first server | p90 | ms per token | tokens/s |",
        "|---|---|---|---|---|---|",
    ]
    for one in times:
        beyond_ms = 1000 * (one.ttft_s - times[0].ttft_s)
        lines.append(
            f"| {one.name} | {1000 * one.ttft_s:.1f} | {beyond_ms:+.1f} | "
            f"{1000 * one.ttft_p90_s:.1f} | {1000 * one.tpot_s:.2f} | {one.tokens_per_s:.0f} |"
        )
    cpu = {one.name: one.cpu_ms_per_token for one in times if one.cpu_ms_per_token}
    return "\n".join([*lines, "", cpu_table(cpu)] if cpu else lines)
