"""Greedy requests at a steady rate, and what became of each, held against plain decoding."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx

from loadtest.prompts import PROMPTS

PER_S = 2.5  # half of what one target of the demo does on two cores: one may be away
MAX_TOKENS = 40
SILENCE_S = 200.0  # after which a request is said to hang

RIGHT, WRONG = "right", "wrong"  # whole answers
REFUSED, FAILED = "429", "5xx or error event"  # clean refusals and failures
BROKEN, UNREACHED, HUNG, OTHER = "broken off", "not connected", "hung", "other"
KINDS = (RIGHT, REFUSED, FAILED, BROKEN, UNREACHED, HUNG, WRONG, OTHER)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request, sent `sent_s` and ended `ended_s` after the beginning.

    `status` is None where none came. `longest_gap_s` is between two events of a stream.
    """

    request_id: str
    kind: str
    status: int | None
    sent_s: float
    ended_s: float
    longest_gap_s: float = 0.0

    def was_under_way(self, from_s: float, to_s: float) -> bool:
        return self.sent_s <= to_s and self.ended_s >= from_s


class _Reply:
    """What has come so far of one."""

    def __init__(self) -> None:
        self.kind, self.text = BROKEN, ""
        self.status: int | None = None
        self.longest_gap_s, self._last_s = 0.0, time.monotonic()

    def read(self, reply: httpx.Response, *, is_stream: bool) -> None:
        self.status = reply.status_code
        if reply.status_code != 200:
            is_failure = reply.status_code >= 500
            self.kind = REFUSED if reply.status_code == 429 else FAILED if is_failure else OTHER
        elif is_stream:
            self._read_events(reply.iter_lines())
        else:
            self.text = json.loads(reply.read())["choices"][0]["message"]["content"] or ""
            self.kind = RIGHT

    def _read_events(self, lines: Iterable[str]) -> None:
        for line in lines:
            now_s = time.monotonic()
            self.longest_gap_s = max(self.longest_gap_s, now_s - self._last_s)
            self._last_s = now_s
            if line == "data: [DONE]":
                self.kind = FAILED if self.kind == FAILED else RIGHT
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    self.kind = FAILED
                for choice in chunk.get("choices", []):
                    self.text += choice["delta"].get("content") or ""


def body_of(i: int) -> dict[str, Any]:
    """Every second request is streamed, and two share a prompt."""
    return {
        "model": "split",
        "messages": [{"role": "user", "content": prompt_of(i)}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": i % 2 == 0,
    }


def prompt_of(i: int) -> str:
    return PROMPTS[i // 2 % len(PROMPTS)]


def send(url: str, i: int, began_s: float, plain: dict[str, str]) -> Outcome:
    """`plain` are the answers of plain decoding, by prompt."""
    body, request_id = body_of(i), f"chaos-{i}"
    sent_s, reply = time.monotonic(), _Reply()
    try:
        with httpx.stream(
            "POST",
            f"{url}/v1/chat/completions",
            json=body,
            headers={"x-request-id": request_id},
            timeout=SILENCE_S,
        ) as answer:
            reply.read(answer, is_stream=body["stream"])
    except httpx.TimeoutException:
        reply.kind = HUNG
    except httpx.ConnectError:
        reply.kind = UNREACHED
    except (httpx.TransportError, ValueError, KeyError):  # cut off, or no whole event
        reply.kind = BROKEN
    if reply.kind == RIGHT and reply.text != plain[prompt_of(i)]:
        reply.kind = WRONG
    return Outcome(
        request_id,
        reply.kind,
        reply.status,
        sent_s - began_s,
        time.monotonic() - began_s,
        reply.longest_gap_s,
    )


class Load:
    """Requests until `join`, `at_least` so many, and what became of all of them."""

    def __init__(self, url: str, plain: dict[str, str], at_least: int) -> None:
        self._is_enough = threading.Event()
        self._url, self._plain, self._at_least = url, plain, at_least
        self._began_s = time.monotonic()
        self._pool = ThreadPoolExecutor(512)  # whatever waits, the rate stays
        self._sent: list[Future[Outcome]] = []
        self._thread = threading.Thread(target=self._send_all)
        self._thread.start()

    @property
    def now_s(self) -> float:
        return time.monotonic() - self._began_s

    @property
    def num_sent(self) -> int:
        return len(self._sent)

    def _send_all(self) -> None:
        for i in itertools.count():
            if i >= self._at_least and self._is_enough.is_set():
                return
            time.sleep(max(0.0, i / PER_S - self.now_s))
            args = self._url, i, self._began_s, self._plain
            self._sent.append(self._pool.submit(send, *args))

    def join(self) -> list[Outcome]:
        """Every request's, in the order in which they were sent."""
        self._is_enough.set()
        self._thread.join()
        self._pool.shutdown()
        return [one.result() for one in self._sent]
