"""What a finished step means for each request: which feature rows are valid, and the anchor.

A target step computes `num_scheduled` tokens of a request, the last `num_drafts` of
them draft tokens, and commits `sampled` tokens. The rows of rejected drafts carry
features of tokens that never happened; they must not become context.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class RowAccount(NamedTuple):
    """A request after a step.

    `num_valid` of its feature rows, from its first scheduled token on, belong to
    committed tokens. `anchor` is its newest committed token, at position
    `num_computed + num_valid`, or None when the prompt is not finished. Of its `num_drafts`
    draft tokens the target accepted `num_accepted`.
    """

    num_valid: int
    anchor: int | None
    num_drafts: int
    num_accepted: int


def account(num_scheduled: int, num_drafts: int, sampled: Sequence[int]) -> RowAccount:
    """Valid rows `q - d + m - 1`, or q for a partial prefill (m = 0)."""
    if not sampled:
        return RowAccount(num_scheduled, None, num_drafts, 0)
    num_accepted = len(sampled) - 1
    num_valid = num_scheduled - num_drafts + num_accepted
    return RowAccount(num_valid, sampled[-1], num_drafts, num_accepted)
