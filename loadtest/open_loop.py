"""Send requests at given times, whatever became of the ones before, and watch their streams."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.client import ChatClient, Received, class_header
from loadtest.phases import Request
from profiles.load_records import OK

_STALL_S = 300.0
REFUSED = 429


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. Times are seconds from the run's start.

    `status` is 0 where the connection or the stream broke off. A stream that ended without its
    last event is broken off too. `sent_s` behind `request.at_s` is the client's own delay.
    """

    request: Request
    status: int
    sent_s: float
    ended_s: float
    first_token_s: float | None = None
    output_tokens: int = 0
    retry_after_s: float | None = None

    @classmethod
    def of(cls, request: Request, received: Received, start_s: float) -> Outcome:
        """`start_s` of the run by `time.perf_counter`."""
        sent_s, ended_s = received.sent_at - start_s, received.ended_at - start_s
        if received.http_status != 200:
            after_s = received.retry_after_s
            status = received.http_status
            return cls(request, status, sent_s, ended_s, retry_after_s=after_s)
        answer = received.answer()
        if answer.status != OK:
            return cls(request, 0, sent_s, ended_s)
        first_token_s = received.sent_at + answer.chunks[0].at_s - start_s
        return cls(request, 200, sent_s, ended_s, first_token_s, answer.output_tokens)

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
    start_s, received = asyncio.run(_run(url, model, requests, cache_salt))
    pairs = zip(requests, received, strict=True)
    return [Outcome.of(request, one, start_s) for request, one in pairs]


async def _run(
    url: str, model: str, requests: Sequence[Request], cache_salt: str
) -> tuple[float, list[Received]]:
    async with ChatClient(url, stall_s=_STALL_S) as client:
        start_s = time.perf_counter()

        async def one(request: Request) -> Received:
            await asyncio.sleep(max(request.at_s - (time.perf_counter() - start_s), 0.0))
            headers = class_header(request.service_class)
            return await client.chat(_body(model, request, cache_salt), headers)

        return start_s, await asyncio.gather(*map(one, requests))


def _body(model: str, request: Request, cache_salt: str) -> dict[str, object]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": request.prompt}],
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "cache_salt": cache_salt,
    }
