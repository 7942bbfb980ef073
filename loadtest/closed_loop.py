"""A closed loop: a fixed number of clients, each sending its next request when one ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Load:
    """What every arm is given: the same prompts, in the same order."""

    prompts: Sequence[str]
    max_tokens: int
    temperature: float
    cache_salt: str  # a new one per run keeps an earlier run's prefixes from being hits


@dataclass(frozen=True, slots=True)
class LoopResult:
    """One run. `output_tokens` is what the server's usage says it sent."""

    output_tokens: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        return self.output_tokens / self.seconds


def run_closed_loop(url: str, model: str, load: Load, concurrency: int) -> LoopResult:
    """Send every prompt of `load` to an OpenAI endpoint with `concurrency` clients.

    Raises `httpx.HTTPStatusError` when the server refuses one.
    """
    return asyncio.run(_run(url, model, load, concurrency))


async def _run(url: str, model: str, load: Load, concurrency: int) -> LoopResult:
    waiting = iter(load.prompts)
    total = 0
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as http:

        async def client() -> None:
            nonlocal total
            for prompt in waiting:
                tokens = await _complete(http, model, load, prompt)
                total += tokens

        began = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(concurrency)))
        return LoopResult(total, time.perf_counter() - began)


async def _complete(http: httpx.AsyncClient, model: str, load: Load, prompt: str) -> int:
    response = await http.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": load.max_tokens,
            "temperature": load.temperature,
            "ignore_eos": True,
            "cache_salt": load.cache_salt,
        },
    )
    response.raise_for_status()
    tokens: int = response.json()["usage"]["completion_tokens"]
    return tokens
