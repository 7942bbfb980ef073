"""Drives one run: sends conversations as a load point says and keeps every answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from loadtest.client import ChatClient, Received, class_header
from loadtest.conversations import Conversation
from loadtest.stream import Answer
from profiles.load_records import RequestRow

_US = 1e6


@dataclass(frozen=True, slots=True)
class Terms:
    """What every request of a run asks for.

    `extras` are of vLLM's kind (`ignore_eos`, `cache_salt`, `return_token_ids`), for servers
    that know them; a new `cache_salt` keeps prefixes of earlier runs from being hits.
    """

    model: str
    max_tokens: int
    temperature: float
    stall_s: float
    extras: Mapping[str, Any]
    api_key: str | None = None
    limit_s: float = 600.0
    service_class: str | None = None


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what became of it; times in seconds from the run's start."""

    number: int
    turn: int
    conversation: Conversation
    due_s: float
    sent_s: float
    received: Received


@dataclass(frozen=True, slots=True)
class RunResult:
    """All requests of a run. The load was full until `window_s`; `client_cpu_s` was ours."""

    exchanges: tuple[Exchange, ...]
    window_s: float
    wall_s: float
    client_cpu_s: float

    def rows(self, run_id: str) -> list[RequestRow]:
        """What is written down, in the order of the load."""
        ordered = sorted(self.exchanges, key=lambda e: (e.number, e.turn))
        return [_row(run_id, exchange) for exchange in ordered]


def run_closed(
    url: str, terms: Terms, conversations: Sequence[Conversation], clients: int
) -> RunResult:
    """`clients` clients, each sending its next request when one is answered.

    The load is full until the first client finds nothing more to send.
    """
    return asyncio.run(_Run(url, terms).closed(conversations, clients))


def run_open(
    url: str, terms: Terms, conversations: Sequence[Conversation], offsets_s: Sequence[float]
) -> RunResult:
    """A conversation begins at each offset, however many are still unanswered."""
    return asyncio.run(_Run(url, terms).open(conversations, offsets_s))


class _Run:
    def __init__(self, url: str, terms: Terms) -> None:
        self._terms = terms
        self._exchanges: list[Exchange] = []
        self._client = ChatClient(
            url, stall_s=terms.stall_s, limit_s=terms.limit_s, api_key=terms.api_key
        )

    async def closed(self, conversations: Sequence[Conversation], clients: int) -> RunResult:
        waiting = iter(enumerate(conversations))
        idle_s: list[float] = []

        async def client() -> None:
            for number, conversation in waiting:
                await self._converse(number, conversation, self._now_s())
            idle_s.append(self._now_s())

        async with self._client:
            self._begin()
            await asyncio.gather(*(client() for _ in range(clients)))
            return self._result(min(idle_s))

    async def open(
        self, conversations: Sequence[Conversation], offsets_s: Sequence[float]
    ) -> RunResult:
        async def at(number: int, conversation: Conversation, due_s: float) -> None:
            await asyncio.sleep(due_s - self._now_s())
            await self._converse(number, conversation, due_s)

        pairs = zip(conversations, offsets_s, strict=True)
        async with self._client:
            self._begin()
            await asyncio.gather(*(at(i, c, due_s) for i, (c, due_s) in enumerate(pairs)))
            return self._result(max(offsets_s[-1], self._first_answered_s()))

    def _begin(self) -> None:
        self._cpu_s = time.process_time()
        self._start = time.perf_counter()

    def _now_s(self) -> float:
        return time.perf_counter() - self._start

    def _first_answered_s(self) -> float:
        """Where all arrive at once, the first answer's end is the end of full load."""
        return min(e.received.ended_at for e in self._exchanges) - self._start

    def _result(self, window_s: float) -> RunResult:
        wall_s = max(e.received.ended_at for e in self._exchanges) - self._start
        cpu_s = time.process_time() - self._cpu_s
        return RunResult(tuple(self._exchanges), window_s, wall_s, cpu_s)

    async def _converse(self, number: int, conversation: Conversation, due_s: float) -> None:
        """All turns, each after the answer to the one before; an error ends them."""
        messages: list[dict[str, str]] = []
        for turn, text in enumerate(conversation.turns, 1):
            messages = [*messages, {"role": "user", "content": text}]
            received = await self._client.chat(
                self._body(conversation, messages), class_header(self._terms.service_class)
            )
            sent_s = received.sent_at - self._start
            self._exchanges.append(Exchange(number, turn, conversation, due_s, sent_s, received))
            if turn == len(conversation.turns):
                return
            answer = received.answer()
            if answer.status != "ok":
                return
            messages.append({"role": "assistant", "content": answer.text})
            due_s = self._now_s()

    def _body(self, conversation: Conversation, messages: Sequence[Mapping[str, str]]) -> Any:
        terms = self._terms
        body = {
            "model": terms.model,
            "messages": messages,
            "max_tokens": terms.max_tokens,
            "temperature": terms.temperature,
            "stream": True,
            "stream_options": {"include_usage": True},
            **terms.extras,
        }
        return body | ({"tools": conversation.tools} if conversation.tools else {})


def _row(run_id: str, exchange: Exchange) -> RequestRow:
    answer: Answer = exchange.received.answer()
    stamps_us = [0, *(round(chunk.at_s * _US) for chunk in answer.chunks)]
    return RequestRow(
        run_id=run_id,
        number=exchange.number,
        turn=exchange.turn,
        domain=exchange.conversation.domain,
        prompt_id=exchange.conversation.id,
        due_s=exchange.due_s,
        sent_s=exchange.sent_s,
        status=answer.status,
        http_status=exchange.received.http_status,
        error=answer.error,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        counted_by=answer.counted_by,
        finish_reason=answer.finish_reason,
        gap_us=tuple(after - before for before, after in pairwise(stamps_us)),
        chunk_tokens=tuple(chunk.num_tokens for chunk in answer.chunks),
    )
