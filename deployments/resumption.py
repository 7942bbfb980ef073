"""What a stream has said when its target dies, as the next target is told of it."""

from __future__ import annotations

from dataclasses import dataclass

RESUME = "dspark_resume"  # of a request's `vllm_xargs`: the ingress's own


@dataclass(frozen=True, slots=True)
class SaidChoice:
    """One choice of an answer so far: its tokens, and why it ended where it did."""

    token_ids: tuple[int, ...] = ()
    finish_reason: str | None = None
    stop_reason: int | str | None = None


@dataclass(frozen=True, slots=True)
class Resumption:
    """An answer so far: the prompt as its first target tokenised it, and all choices."""

    prompt_token_ids: tuple[int, ...]
    choices: tuple[SaidChoice, ...]
