"""Evaluation of a served model: prompts over HTTP, accepted tokens by the service's own count.

The service counts over all its requests (`GET /fleet`), so each cell of the table is a run
of its own between two readings, and one whose tokens do not add up, because others were
served too, is refused. Totals do not tell drafts apart: confidences are measured offline, and
a context position is that of an answer's beginning.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import httpx

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.plan import Mode

T = TypeVar("T")

_TIMEOUT_S = 600.0
_BUSY = (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.SERVICE_UNAVAILABLE)
_MOST_TRIES = 10
_SETTLED_S = 1.5  # more than two exchanges between targets and controller
_SETTLE_LIMIT_S = 30.0
_NOBODY_DRAFTS = "no target of this model drafts, or none has reported yet"


class ServedCounts(NamedTuple):
    """A model's totals over its targets, or the difference of two readings of them.

    By position: draft tokens verified behind an accepted prefix, and accepted ones.
    """

    committed_tokens: int
    verified_drafts: int
    reached_by_position: tuple[int, ...]
    accepted_by_position: tuple[int, ...]

    @classmethod
    def of(cls, model: Mapping[str, Any]) -> ServedCounts:
        """From a model's entry in `GET /fleet`. Raises ValueError where it has none."""
        stats = [target["stats"] for target in model["targets"] if target["stats"]]
        if not stats:
            raise ValueError(_NOBODY_DRAFTS)
        try:
            return cls(
                sum(one["committed_tokens"] for one in stats),
                sum(one["verified_drafts"] for one in stats),
                _sums([one["reached_by_position"] for one in stats]),
                _sums([one["accepted_by_position"] for one in stats]),
            )
        except KeyError as error:
            raise ValueError(f"its targets do not report {error}: another version") from None

    def since(self, before: ServedCounts) -> ServedCounts:
        """What was counted between two readings."""
        return ServedCounts(
            self.committed_tokens - before.committed_tokens,
            self.verified_drafts - before.verified_drafts,
            _sums([self.reached_by_position, [-n for n in before.reached_by_position]]),
            _sums([self.accepted_by_position, [-n for n in before.accepted_by_position]]),
        )


def _sums(rows: Sequence[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said, and how many tokens by its own usage."""

    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a turn was refused (400): mostly as the model has no room for it."""

    reason: str


class ServedModel:
    """One model of a running service, asked by `concurrency` clients.

    An `api_key` has to be an admin's where another policy is to be verified by. Methods
    raise `httpx.HTTPError` when the service is not there or refuses.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        max_output_tokens: int,
        concurrency: int,
        api_key: str | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._model = model
        self._max_output_tokens = max_output_tokens
        self._concurrency = concurrency

    def versions(self) -> dict[str, str]:
        """The weights that serve, as `DraftingPair` names them; of several, all.

        Raises ValueError where no target that drafts has reported.
        """
        pairs = [target["pair"] for target in self._fleet()["targets"] if target["pair"]]
        if not pairs:
            raise ValueError(_NOBODY_DRAFTS)
        return {
            name: ", ".join(sorted({str(pair[name]) for pair in pairs}))
            for name in ("model_revision", "drafter_version")
        }

    @contextmanager
    def verifying_by(self, policy: Mapping[str, Any] | None) -> Iterator[None]:
        """Let the model use `policy` for as long as the context lasts; None changes nothing."""
        if policy is None:
            yield
            return
        before = self._fleet()["controls"].get("policy")
        self._set_policy(policy)
        try:
            yield
        finally:
            self._set_policy(before)

    def hold(
        self, mode: Mode, conversations: Sequence[Conversation], answers: Sequence[Sequence[str]]
    ) -> tuple[ServedCounts, list[Answer | Refused]]:
        """Ask each conversation's next turn, after its `answers` so far, and count.

        Raises ValueError where others were served meanwhile, or nothing settles.
        """
        before = self._settled_counts()
        replies = asyncio.run(self._each(self._answer, mode, conversations, answers))
        counts = self._settled_counts().since(before)
        check_alone(counts, [reply for reply in replies if isinstance(reply, Answer)])
        return counts, replies

    def context_tokens(
        self, mode: Mode, conversations: Sequence[Conversation], answers: Sequence[Sequence[str]]
    ) -> list[int]:
        """What each conversation's next prompt comes to, by the service's own tokenizer."""
        return asyncio.run(self._each(self._count, mode, conversations, answers))

    def _fleet(self) -> dict[str, Any]:
        reply = httpx.get(f"{self._url}/fleet", headers=self._headers, timeout=30)
        models = reply.raise_for_status().json()["models"]
        if self._model not in models:
            there = ", ".join(models) or "nothing"
            raise ValueError(f"{self._url} serves {there}, not {self._model}")
        found: dict[str, Any] = models[self._model]
        return found

    def _set_policy(self, policy: Mapping[str, Any] | None) -> None:
        url = f"{self._url}/fleet/models/{self._model}"
        reply = httpx.patch(url, json={"policy": policy}, headers=self._headers, timeout=30)
        reply.raise_for_status()
        time.sleep(_SETTLED_S)  # targets follow within an exchange

    def _settled_counts(self) -> ServedCounts:
        """Totals that no longer change."""
        deadline = time.monotonic() + _SETTLE_LIMIT_S
        counts = ServedCounts.of(self._fleet())
        while time.monotonic() < deadline:
            time.sleep(_SETTLED_S)
            earlier, counts = counts, ServedCounts.of(self._fleet())
            if counts == earlier:
                return counts
        raise ValueError(f"{self._url} goes on serving others; evaluate when it is idle")

    async def _each(
        self,
        ask: Callable[[httpx.AsyncClient, Mode, list[dict[str, str]]], Awaitable[T]],
        mode: Mode,
        conversations: Sequence[Conversation],
        answers: Sequence[Sequence[str]],
    ) -> list[T]:
        """What `ask` finds of every conversation, `concurrency` of them at a time."""
        seats = asyncio.Semaphore(self._concurrency)
        async with httpx.AsyncClient(
            base_url=self._url, headers=self._headers, timeout=_TIMEOUT_S
        ) as http:

            async def one(conversation: Conversation, texts: Sequence[str]) -> T:
                async with seats:
                    return await ask(http, mode, messages(conversation.turns, texts))

            pairs = zip(conversations, answers, strict=True)
            return list(await asyncio.gather(*(one(*pair) for pair in pairs)))

    async def _answer(
        self, http: httpx.AsyncClient, mode: Mode, said: list[dict[str, str]]
    ) -> Answer | Refused:
        limits = {"max_tokens": self._max_output_tokens, "temperature": mode.temperature}
        reply = await _posted(http, "/v1/chat/completions", self._body(mode, said) | limits)
        if reply.status_code == httpx.codes.BAD_REQUEST:
            return Refused(reply.text)
        found = reply.raise_for_status().json()
        text = found["choices"][0]["message"]["content"]
        return Answer(text or "", found["usage"]["completion_tokens"])

    async def _count(self, http: httpx.AsyncClient, mode: Mode, said: list[dict[str, str]]) -> int:
        reply = await _posted(http, "/tokenize", self._body(mode, said))
        return int(reply.raise_for_status().json()["count"])

    def _body(self, mode: Mode, said: list[dict[str, str]]) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self._model, "messages": said}
        if mode.thinking != "none":
            body["chat_template_kwargs"] = {"enable_thinking": mode.thinking == "on"}
        return body


def messages(turns: Sequence[str], answers: Sequence[str]) -> list[dict[str, str]]:
    """A conversation up to the user's turn that follows its `answers`."""
    said = []
    for user, assistant in zip(turns, answers, strict=False):
        said.append({"role": "user", "content": user})
        said.append({"role": "assistant", "content": assistant})
    return [*said, {"role": "user", "content": turns[len(answers)]}]


async def _posted(http: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> httpx.Response:
    """The reply, once the service is no longer too busy for one."""
    for _ in range(_MOST_TRIES):
        reply = await http.post(path, json=body)
        if reply.status_code not in _BUSY:
            break
        after = reply.headers.get("Retry-After", "")
        await asyncio.sleep(float(after) if after.isdecimal() else 1.0)
    return reply


def check_alone(counts: ServedCounts, answers: Sequence[Answer]) -> None:
    """Raise ValueError unless `counts` are of these answers, each with a block beyond its end."""
    own = sum(answer.num_tokens for answer in answers)
    most = own + len(answers) * len(counts.accepted_by_position)
    if not own <= counts.committed_tokens <= most:
        raise ValueError(
            f"the service committed {counts.committed_tokens} tokens while it answered with "
            f"{own}: others were served too, or a target was replaced; evaluate again"
        )
