"""A streamed chat answer: raw bytes with their arrival times in, tokens per chunk out. Pure.

Bytes are stamped while the load runs and understood afterwards, so that measuring costs the
machine as little as it can.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from profiles.load_records import MALFORMED, OK, REFUSED, TRUNCATED

_EXCERPT_CHARS = 200
_PARTS = ("content", "reasoning", "reasoning_content", "tool_calls")


class Piece(NamedTuple):
    """Bytes as they came, `at_s` seconds after the request was sent."""

    at_s: float
    data: bytes


class Chunk(NamedTuple):
    """Tokens that arrived together."""

    at_s: float
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What an answer says of itself. `status` is one of `profiles.load_records.STATUSES`."""

    status: str
    error: str = ""
    text: str = ""
    chunks: tuple[Chunk, ...] = ()
    counted_by: str = "chunks"
    prompt_tokens: int = 0
    finish_reason: str = ""

    @property
    def output_tokens(self) -> int:
        return sum(chunk.num_tokens for chunk in self.chunks)


class StreamError(ValueError):
    """Bytes that are no answer; the message has an excerpt."""


class _Event(NamedTuple):
    at_s: float
    data: str


def parse_answer(pieces: Sequence[Piece], http_status: int) -> Answer:
    """The answer in `pieces`; never raises, whatever the bytes are."""
    if http_status != 200:
        body = b"".join(piece.data for piece in pieces).decode(errors="replace")
        return Answer(REFUSED, f"HTTP {http_status}: {body[:_EXCERPT_CHARS]}")
    reader = _Reader()
    try:
        for event in _events(pieces):
            reader.take(event)
    except StreamError as error:
        return reader.answer(MALFORMED, str(error))
    if not reader.done:
        return reader.answer(TRUNCATED, "the stream ended without data: [DONE]")
    if not reader.chunks:
        return reader.answer(MALFORMED, "an answer without a token")
    if not reader.finish_reason:
        return reader.answer(TRUNCATED, "the answer ended without a finish reason")
    return reader.answer(OK)


def _events(pieces: Sequence[Piece]) -> Iterator[_Event]:
    """Server-sent events, each when its last byte arrived. Raises StreamError."""
    unfinished = b""
    for piece in pieces:
        *lines, unfinished = (unfinished + piece.data).split(b"\n")
        for raw in lines:
            line = raw.strip()
            if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
                continue
            if not line.startswith(b"data:"):
                raise StreamError(f"not an event: {_excerpt(line)}")
            yield _Event(piece.at_s, line[5:].strip().decode(errors="replace"))


class _Reader:
    """Collects an answer event by event."""

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.done = False
        self._text: list[str] = []
        self._counted_by: str | None = None
        self._prompt_tokens = 0
        self._total: int | None = None
        self.finish_reason = ""

    def take(self, event: _Event) -> None:
        """One event. Raises StreamError for what is none of a chat's."""
        if event.data == "[DONE]":
            self.done = True
            return
        try:
            document = json.loads(event.data)
            if document.get("error"):
                raise StreamError(f"an error in the stream: {_excerpt(event.data.encode())}")
            self._take_document(event.at_s, document)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            if isinstance(error, StreamError):
                raise
            raise StreamError(f"not a chunk of a chat: {_excerpt(event.data.encode())}") from None

    def _take_document(self, at_s: float, document: dict[str, Any]) -> None:
        usage = document.get("usage") or {}
        before, self._total = self._total or 0, usage.get("completion_tokens", self._total)
        self._prompt_tokens = usage.get("prompt_tokens", self._prompt_tokens)
        for choice in document["choices"]:
            self.finish_reason = choice.get("finish_reason") or self.finish_reason
            delta = choice.get("delta") or {}
            said = _said(delta)
            self._text.append(delta.get("content") or "")
            ids = choice.get("token_ids")
            if ids:
                self._count(at_s, len(ids), "token_ids")
            elif self._counted_by == "token_ids":
                continue
            elif self._counted_by != "chunks" and (self._total or 0) > before:
                self._count(at_s, (self._total or 0) - before, "usage")
            elif said and self._counted_by != "usage":
                self._count(at_s, 1, "chunks")

    def _count(self, at_s: float, num_tokens: int, counted_by: str) -> None:
        self.chunks.append(Chunk(at_s, num_tokens))
        self._counted_by = counted_by

    def answer(self, status: str, error: str = "") -> Answer:
        """What has come so far; chunks that nobody counted share the total of the usage."""
        chunks, counted_by = self.chunks, self._counted_by or "chunks"
        if counted_by == "chunks" and chunks and self._total is not None:
            counted_by = "spread"
            shares = _spread(self._total, len(chunks))
            chunks = [Chunk(c.at_s, n) for c, n in zip(chunks, shares, strict=True)]
        return Answer(
            status,
            error,
            "".join(self._text),
            tuple(chunks),
            counted_by,
            self._prompt_tokens,
            self.finish_reason,
        )


def _said(delta: dict[str, Any]) -> bool:
    """Whether the delta carries a part of the answer: text, reasoning or a tool call."""
    return any(delta.get(key) for key in _PARTS)


def _spread(total: int, parts: int) -> list[int]:
    """`total` in `parts` whole numbers that differ by one at most."""
    return [total * (i + 1) // parts - total * i // parts for i in range(parts)]


def _excerpt(data: bytes) -> str:
    return data[:_EXCERPT_CHARS].decode(errors="replace")
