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
class Answer:
    """One request: when it was sent and answered, seconds from the run's start, and its tokens."""

    began_s: float
    ended_s: float
    output_tokens: int

    def tokens_until(self, time_s: float) -> float:
        """Tokens by then, as if they came evenly."""
        share = (time_s - self.began_s) / (self.ended_s - self.began_s)
        return self.output_tokens * min(max(share, 0.0), 1.0)


@dataclass(frozen=True, slots=True)
class LoopResult:
    """One run: its answers, and when the first client found nothing more to send."""

    answers: Sequence[Answer]
    full_until_s: float

    @property
    def tokens_per_s(self) -> float:
        """Of the time in which all clients were busy.

        What comes after is another, falling load: all the longer, the more the clients'
        answers have drifted apart.
        """
        tokens = sum(answer.tokens_until(self.full_until_s) for answer in self.answers)
        return tokens / self.full_until_s


def run_closed_loop(url: str, model: str, load: Load, concurrency: int) -> LoopResult:
    """Send every prompt of `load` to an OpenAI endpoint with `concurrency` clients.

    Raises `httpx.HTTPStatusError` when the server refuses one.
    """
    return asyncio.run(_run(url, model, load, concurrency))


async def _run(url: str, model: str, load: Load, concurrency: int) -> LoopResult:
    waiting = iter(load.prompts)
    answers: list[Answer] = []
    idle_s: list[float] = []
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S) as http:
        start_s = time.perf_counter()

        async def client() -> None:
            for prompt in waiting:
                began_s = time.perf_counter() - start_s
                tokens = await _complete(http, model, load, prompt)
                answers.append(Answer(began_s, time.perf_counter() - start_s, tokens))
            idle_s.append(time.perf_counter() - start_s)

        await asyncio.gather(*(client() for _ in range(concurrency)))
    return LoopResult(answers, min(idle_s))


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
