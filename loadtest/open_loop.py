"""Send requests at given times, whatever became of the ones before, and watch their streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from loadtest.phases import Request

_TIMEOUT_S = 300.0
_TAIL_BYTES = 8192  # of a stream: the last event, with the usage, lies within
REFUSED = 429


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. Times are seconds from the run's start.

    `status` is 0 where the connection or the stream broke off. A stream that ended without its
    last event is broken off too.
    """

    request: Request
    status: int
    ended_s: float
    first_token_s: float | None = None
    output_tokens: int = 0
    retry_after_s: float | None = None

    @property
    def is_answered(self) -> bool:
        return self.status == 200 and self.first_token_s is not None

    @property
    def ttft_s(self) -> float:
        """From when it was to be sent: a late client makes nobody look faster."""
        assert self.first_token_s is not None
        return self.first_token_s - self.request.at_s

    @property
    def tpot_s(self) -> float:
        assert self.first_token_s is not None
        return (self.ended_s - self.first_token_s) / max(self.output_tokens - 1, 1)


def run_open_loop(
    url: str, model: str, requests: Sequence[Request], *, cache_salt: str
) -> list[Outcome]:
    """The outcome of every request, in their order; refusals and failures are outcomes too."""
    return asyncio.run(_run(url, model, requests, cache_salt))


async def _run(url: str, model: str, requests: Sequence[Request], cache_salt: str) -> list[Outcome]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, limits=limits) as http:
        start_s = time.perf_counter()
        return await asyncio.gather(
            *(_one(http, model, request, cache_salt, start_s) for request in requests)
        )


async def _one(
    http: httpx.AsyncClient, model: str, request: Request, cache_salt: str, start_s: float
) -> Outcome:
    def now_s() -> float:
        return time.perf_counter() - start_s

    await asyncio.sleep(max(request.at_s - now_s(), 0.0))
    body = {
        "model": model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": cache_salt,
    }
    headers = {"x-dspark-class": request.service_class} if request.service_class else {}
    try:
        async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
            if reply.status_code != 200:
                await reply.aread()
                after = reply.headers.get("retry-after")
                return Outcome(
                    request,
                    reply.status_code,
                    now_s(),
                    retry_after_s=float(after) if after else None,
                )
            first_token_s, tail = None, b""
            async for chunk in reply.aiter_raw():
                if first_token_s is None and b'"content":"' in chunk.replace(b'"content":""', b""):
                    first_token_s = now_s()
                tail = (tail + chunk)[-_TAIL_BYTES:]
            ended_s = now_s()
    except httpx.HTTPError:
        return Outcome(request, 0, now_s())
    tokens = _completion_tokens(tail)
    if tokens is None or first_token_s is None:
        return Outcome(request, 0, ended_s)
    return Outcome(request, 200, ended_s, first_token_s, tokens)


def _completion_tokens(tail: bytes) -> int | None:
    """Of the usage in the last event; None where the stream did not come to its end."""
    events = [line[6:] for line in tail.split(b"\n") if line.startswith(b"data: ")]
    if len(events) < 2 or events[-1].strip() != b"[DONE]":
        return None
    usage = json.loads(events[-2]).get("usage")
    return None if usage is None else int(usage["completion_tokens"])
