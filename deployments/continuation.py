"""What of a streamed answer has reached its client, and how another target goes on from there.

Every chunk of a target says which tokens it is made of, so what has been delivered is known to
the token. A target that takes a stream up says again, in chunks of their own, what had been
said (`deployments.engine.resume`): its parsers, its usage and its text then stand where those
of the lost target stood. Those chunks are left out here; what follows is new.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from deployments.resumption import RESUME, Resumption, SaidChoice

DONE = "data: [DONE]\n\n"
NOT_OURS = "its engine is attached, and was not made to take streams up"
_DATA = "data: "


class StreamBrokenError(Exception):
    """A target ended a stream that had more to say."""


class CannotContinueError(Exception):
    """The stream cannot be taken up exactly; the message says why."""


def why_not(body: Any) -> str | None:
    """Why a request's stream, once begun, cannot be taken up exactly; None when it can.

    `body` is a chat or completion request of vLLM's.
    """
    if getattr(body, "echo", False):
        return "echo: what was said is not told from the prompt"
    if getattr(body, "use_beam_search", False):
        return "beam search keeps more than what it has said"
    if getattr(body, "thinking_token_budget", None) is not None:
        return "thinking_token_budget: how much of it is spent is not known"
    if not getattr(body, "include_reasoning", True):
        return "include_reasoning off hides which tokens were said"
    if _num_prompts(getattr(body, "prompt", None)) != 1:
        return "several prompts in one request"
    return None


def _wants_usage(body: Any) -> bool:
    options = getattr(body, "stream_options", None)
    return bool(getattr(options, "include_usage", False))


def _num_prompts(prompt: Any) -> int:
    """How many prompts `prompt` of a completion request is; 1 for a chat, which has none."""
    if not isinstance(prompt, list) or not prompt or isinstance(prompt[0], int):
        return 1
    return len(prompt)


@dataclass(slots=True)
class _Choice:
    token_ids: list[int] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    opened: bool = False  # its role has been sent
    repeats: int = 0  # tokens a resumed target has still to say again
    repeats_end: bool = False  # and its end

    @property
    def said(self) -> SaidChoice:
        return SaidChoice(tuple(self.token_ids), self.finish_reason, self.stop_reason)


class Delivered:
    """The client's side of one streamed answer, over all targets that it comes from.

    `is_ours` where the targets' engines are: others cannot take a stream up.
    """

    def __init__(self, body: Any, *, is_ours: bool = True) -> None:
        self._body = body
        self._wants_token_ids = bool(getattr(body, "return_token_ids", False))
        self._wants_usage = is_ours or _wants_usage(body)
        self._unfit = why_not(body) if is_ours else NOT_OURS
        num_choices = (getattr(body, "n", None) or 1) * _num_prompts(getattr(body, "prompt", None))
        self._choices = [_Choice() for _ in range(num_choices)]
        self._prompt_token_ids: tuple[int, ...] | None = None
        self._id: tuple[str, int] | None = None  # what the first chunk was named and when
        self.has_said = False  # anything that a restart would say again, or differently
        self.has_failed = False  # a target ended it with an error event
        self._told_usage = False
        self._usage: tuple[int, int] | None = None
        self.done = False

    @property
    def has_begun(self) -> bool:
        """The client has something of it, if only its role."""
        return self._id is not None

    @property
    def num_tokens(self) -> tuple[int, int] | None:
        """Prompt and output tokens so far; None where chunks do not tell."""
        if self._prompt_token_ids is None:
            return self._usage
        return len(self._prompt_token_ids), sum(len(c.token_ids) for c in self._choices)

    def first_request(self) -> Any:
        """The request as the first target gets it: to tell which tokens its chunks hold."""
        if self._unfit is not None:
            return self._body
        return self._body.model_copy(update={"return_token_ids": True})

    def next_request(self) -> Any:
        """The request as the next target gets it: to go on, or to start where nothing was said.

        Raises CannotContinueError.
        """
        if not self.has_said:
            return self.first_request()
        if self._unfit is not None or self._prompt_token_ids is None:
            raise CannotContinueError(self._unfit or "which tokens were said is not known")
        for choice in self._choices:
            choice.repeats = len(choice.token_ids)
            choice.repeats_end = choice.finish_reason is not None
        said = Resumption(self._prompt_token_ids, tuple(c.said for c in self._choices))
        extra = {**(self._body.vllm_xargs or {}), RESUME: said}
        return self.first_request().model_copy(update={"vllm_xargs": extra})

    def take(self, event: str) -> str | None:
        """What the client gets of an event of the stream; None for one that is not for it.

        Raises StreamBrokenError where the target gave the answer up.
        """
        if not event.startswith(_DATA):
            return event
        if event == DONE:
            self.done = True
            return event
        chunk = json.loads(event[len(_DATA) :])
        if "choices" not in chunk:  # an error of the target's
            self.has_failed = True
            return event
        if not self._keep(chunk):
            return None
        return f"{_DATA}{json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def _keep(self, chunk: dict[str, Any]) -> bool:
        """Note what a chunk says; False where the client has it already, or has no use for it."""
        self._id = self._id or (chunk.get("id", ""), chunk.get("created", 0))
        chunk["id"], chunk["created"] = self._id
        get = chunk.get if self._wants_token_ids else chunk.pop
        self._note_prompt(get("prompt_token_ids", None))
        if not chunk["choices"]:
            return self._note_usage(chunk.get("usage"))
        kept = [self._keep_choice(choice) for choice in chunk["choices"]]  # all of them noted
        return all(kept)

    def _keep_choice(self, choice: dict[str, Any]) -> bool:
        known = self._choices[choice["index"]]
        get = choice.get if self._wants_token_ids else choice.pop
        token_ids = get("token_ids", None)
        self._note_prompt(get("prompt_token_ids", None))
        if choice.get("finish_reason") == "abort":
            raise StreamBrokenError("the target aborted the request")
        if token_ids is None and choice.get("delta", {}).get("role"):
            known.opened, is_new = True, not known.opened
            return is_new
        if known.repeats or known.repeats_end:
            known.repeats -= len(token_ids or ())
            known.repeats_end = known.repeats_end and not choice.get("finish_reason")
            assert known.repeats >= 0, "a resumed target says again what was said, apart"
            return False
        self.has_said = True
        known.token_ids += token_ids or ()
        known.finish_reason = choice.get("finish_reason")
        known.stop_reason = choice.get("stop_reason")
        # Sent for its token ids alone: a parser holds back what it says.
        says_nothing = not choice.get("delta", True) and not choice.get("logprobs")
        return self._wants_token_ids or not says_nothing or bool(choice.get("finish_reason"))

    def _note_usage(self, usage: dict[str, Any] | None) -> bool:
        """Whether it is for the client, who may have it already or not have asked."""
        if usage is None:  # of another engine: what it says there is its own
            return True
        self._usage = (usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0)
        is_new, self._told_usage = not self._told_usage, True
        return is_new and self._wants_usage

    def _note_prompt(self, token_ids: list[int] | None) -> None:
        if token_ids is not None and self._prompt_token_ids is None:
            self._prompt_token_ids = tuple(token_ids)


def error_event(message: str) -> str:
    """The last event of a stream that cannot go on, as OpenAI's clients understand it."""
    error = {"message": message, "type": "ServiceUnavailableError", "param": None, "code": 503}
    return f"{_DATA}{json.dumps({'error': error})}\n\n"
