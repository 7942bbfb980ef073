"""Tokens per second of a model under a closed loop, for who needs no more than that."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from itertools import accumulate

from loadtest.conversations import Conversation
from loadtest.drive import RunResult, Terms, run_closed

_STALL_S = 300.0
_US = 1e-6


def closed_loop_tokens_per_s(
    url: str,
    model: str,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    clients: int,
    service_class: str | None = None,
) -> float:
    """Greedy answers of `max_tokens` to every prompt, counted while all clients are busy.

    Raises RuntimeError where a request is not answered, with the server's reason.
    """
    extras = {"ignore_eos": True, "return_token_ids": True, "cache_salt": secrets.token_hex(8)}
    terms = Terms(
        model,
        max_tokens,
        temperature=0.0,
        stall_s=_STALL_S,
        extras=extras,
        service_class=service_class,
    )
    conversations = [Conversation(str(i), "mixed", (text,)) for i, text in enumerate(prompts)]
    return tokens_per_s(run_closed(url, terms, conversations, clients))


def tokens_per_s(result: RunResult) -> float:
    """Tokens that came within the window, per second. Raises RuntimeError for a failed request."""
    num_tokens = 0
    for row in result.rows(""):
        if row.status != "ok":
            raise RuntimeError(f"a request was not answered ({row.status}): {row.error}")
        stamps_s = (row.sent_s + _US * us for us in accumulate(row.gap_us))
        arrived = zip(stamps_s, row.chunk_tokens, strict=True)
        num_tokens += sum(count for at_s, count in arrived if at_s <= result.window_s)
    return num_tokens / result.window_s
