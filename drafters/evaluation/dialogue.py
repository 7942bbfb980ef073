"""One conversation while it is evaluated: its tokens, its turns, and what is computed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from drafters.evaluation.benchmarks import Conversation


@dataclass(frozen=True, slots=True)
class Limits:
    """Where an answer ends: at one of `end_tokens`, after `max_output_tokens` or later in the
    same step, or where a whole draft no longer fits into `max_tokens`, prompt included."""

    max_output_tokens: int
    max_tokens: int
    end_tokens: frozenset[int] = frozenset()


@dataclass(slots=True)
class Dialogue:
    """A conversation at one of its turns.

    `tokens` are committed, prompt and output; the target has computed all but the last,
    the anchor. The drafter has been given features below `num_fed`. `encode` makes token ids
    of the user's turns and the answers so far, `decode` an answer's text of its tokens.
    """

    conversation: Conversation
    encode: Callable[[Sequence[str], Sequence[str]], list[int]]
    decode: Callable[[Sequence[int]], str]
    limits: Limits
    turn: int = -1
    tokens: list[int] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_fed: int = 0
    answers: list[str] = field(default_factory=list)
    ended: bool = True

    @property
    def anchor_position(self) -> int:
        return len(self.tokens) - 1

    @property
    def num_unread(self) -> int:
        """Tokens that the target has not computed, or not told the drafter of."""
        return len(self.tokens) - self.num_fed

    @property
    def awaits_prefill(self) -> bool:
        """Whether its turn has begun and its prompt has not been read."""
        return not self.ended and len(self.tokens) == self.num_prompt_tokens

    @property
    def output(self) -> list[int]:
        """What the target has said in this turn."""
        return self.tokens[self.num_prompt_tokens :]

    def begin_turn(self, block_size: int) -> bool:
        """Go on to the next turn; False when there is none or it does not fit.

        What target and drafter know of its prompt, from earlier turns, is not read again.
        """
        self.turn += 1
        if self.turn == len(self.conversation.turns):
            return False
        prompt = self.encode(self.conversation.turns[: self.turn + 1], self.answers)
        if len(prompt) + 1 + block_size > self.limits.max_tokens:
            return False
        self.num_fed = _num_shared(self.tokens[: self.num_fed], prompt[:-1])
        self.tokens, self.num_prompt_tokens = prompt, len(prompt)
        self.ended = False
        return True

    def commit(self, tokens: Sequence[int], block_size: int) -> None:
        """Append what a target step gave, up to a token that ends the answer."""
        for token in tokens:
            self.tokens.append(token)
            if token in self.limits.end_tokens:
                self.ended = True
                break
        is_long = len(self.output) >= self.limits.max_output_tokens
        is_full = len(self.tokens) + block_size > self.limits.max_tokens
        self.ended = self.ended or is_long or is_full
        if self.ended:
            self.answers.append(self.decode(self.output))


def _num_shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
