"""The speculative decoding loop: draft, verify, commit, for many conversations at a time.

Exact, as serving is: a block is drafted from the committed tokens, the target verifies all
of it in one step, the accepted prefix and the target's own next token are committed
(Leviathan et al., 2023).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from drafters.evaluation.benchmarks import Conversation
from drafters.evaluation.dialogue import Dialogue
from drafters.evaluation.target import EvaluatedTarget
from drafters.messages import (
    DraftBatch,
    Drafter,
    DraftShape,
    SparseDistribution,
    StepBatch,
    StepRow,
)
from drafters.verification import REJECTED, draw, rejection_sample

MAX_PREFILL_TOKENS = 2048  # of a step that reads prompts
_TARGET_ID = "evaluated"


class VerifiedDraft(NamedTuple):
    """What became of one draft, all of whose tokens were verified.

    `position` is the anchor's, the number of tokens before it; `num_accepted` excludes the
    bonus token, `verification_mode` is one of `profiles.calibration_key`.
    """

    conversation: Conversation
    turn: int
    position: int
    confidences: list[float]
    num_accepted: int
    verification_mode: str


@dataclass(slots=True)
class _Seat:
    """A dialogue in a row of the target, with the features its drafter has not been given."""

    dialogue: Dialogue
    new_features: Tensor


class SpeculativeLoop:
    """Answers conversations at one temperature and reports every draft.

    `max_prefill_tokens` bounds a step that reads prompts. Random numbers come from
    `generator`; the drafter has its own.
    """

    def __init__(
        self,
        target: EvaluatedTarget,
        drafter: Drafter,
        shape: DraftShape,
        *,
        temperature: float,
        num_seats: int,
        generator: torch.Generator,
        max_prefill_tokens: int = MAX_PREFILL_TOKENS,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._block_size = shape.block_size
        self._needs_tokens = shape.needs_tokens
        self._temperature = temperature
        self._num_seats = num_seats
        self._generator = generator
        self._max_prefill_tokens = max_prefill_tokens
        self._seats: list[_Seat] = []  # seat i is row i of the target
        self._closed: list[str] = []  # conversations the drafter has sessions of and need not

    def run(self, dialogues: Sequence[Dialogue]) -> Iterator[VerifiedDraft]:
        """Hold the dialogues, `num_seats` at a time, and yield drafts as they are verified."""
        waiting = list(reversed(dialogues))
        while True:
            while waiting and len(self._seats) < self._num_seats:
                self._seats.append(_Seat(waiting.pop(), torch.empty(0)))
            self._begin_turns()
            if self._seats:
                yield from self._verify(self._draft())
            elif not waiting:
                return

    def _begin_turns(self) -> None:
        """Read the prompts of seats whose turn has ended; who has no more turns leaves."""
        while any(seat.dialogue.ended for seat in self._seats):
            row, began = 0, []
            while row < len(self._seats):
                dialogue = self._seats[row].dialogue
                if dialogue.ended and not dialogue.begin_turn(self._block_size):
                    self._leave(row)  # another seat comes to stand here
                    continue
                if dialogue.awaits_prefill:
                    began.append(row)
                row += 1
            for rows in self._prefill_groups(began):
                self._prefill(rows)

    def _leave(self, row: int) -> None:
        """The last seat takes the row of one that leaves."""
        self._closed.append(self._seats[row].dialogue.conversation.key)
        last = self._seats.pop()
        if row < len(self._seats):
            self._target.move_row(len(self._seats), row)
            self._seats[row] = last

    def _prefill_groups(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Rows of similar length, together at most `max_prefill_tokens` or else one alone."""
        group: list[int] = []
        for row in sorted(rows, key=lambda row: self._seats[row].dialogue.num_unread):
            longest = self._seats[row].dialogue.num_unread
            if group and longest * (len(group) + 1) > self._max_prefill_tokens:
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _prefill(self, rows: list[int]) -> None:
        """Compute what is new in the prompts of `rows` and commit the first token of each."""
        dialogues = [self._seats[row].dialogue for row in rows]
        unread = [dialogue.tokens[dialogue.num_fed :] for dialogue in dialogues]
        lengths = torch.tensor(list(map(len, unread)))
        padded = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for i, tokens in enumerate(unread):
            padded[i, : len(tokens)] = torch.tensor(tokens)
        features = []
        # One piece, but for a prompt that is longer than a step may be.
        for first in range(0, padded.shape[1], self._max_prefill_tokens):
            piece = padded[:, first : first + self._max_prefill_tokens]
            last = (lengths - 1 - first).clamp(0, piece.shape[1] - 1).unsqueeze(1)
            starts = [dialogue.num_fed + first for dialogue in dialogues]
            step = self._target.read(rows, piece, starts, last)
            features.append(step.features)
        chosen = self._choose(step.logits[:, 0]).tolist()
        read = torch.cat(features, dim=1)
        for i, row in enumerate(rows):
            self._seats[row].new_features = read[i, : len(unread[i])]
            dialogues[i].commit(chosen[i : i + 1], self._block_size)

    def _draft(self) -> DraftBatch:
        """A draft for every seat, from the features that are new since its last one."""
        rows = []
        for seat in self._seats:
            dialogue = seat.dialogue
            fed, end = dialogue.num_fed, dialogue.anchor_position
            tokens = tuple(dialogue.tokens[fed + 1 :]) if self._needs_tokens else ()
            rows.append(
                StepRow(
                    dialogue.conversation.key,
                    epoch=0,
                    start=fed,
                    num_rows=end - fed,
                    anchor=dialogue.tokens[-1],
                    temperature=self._temperature,
                    tokens=tokens,
                )
            )
            dialogue.num_fed = end
        features = torch.cat([seat.new_features for seat in self._seats])
        closed, self._closed = tuple(self._closed), []
        (drafts,) = self._drafter.step([StepBatch(_TARGET_ID, tuple(rows), features, closed)])
        return drafts

    def _verify(self, drafts: DraftBatch) -> Iterator[VerifiedDraft]:
        """One target step over every seat's anchor and draft; commits what it gives."""
        num_seats, gamma = drafts.tokens.shape
        dialogues = [seat.dialogue for seat in self._seats]
        anchors = torch.tensor([[d.tokens[-1]] for d in dialogues], device=drafts.tokens.device)
        starts = [dialogue.anchor_position for dialogue in dialogues]
        everywhere = torch.arange(gamma + 1).expand(num_seats, -1)
        block = torch.cat((anchors, drafts.tokens), dim=1)
        step = self._target.read(range(num_seats), block, starts, everywhere)
        committed = self._committed(drafts, step.logits)
        for seat, (row, tokens) in zip(self._seats, enumerate(committed), strict=True):
            dialogue = seat.dialogue
            yield VerifiedDraft(
                dialogue.conversation,
                turn=dialogue.turn,
                position=starts[row],
                confidences=drafts.confidences[row].tolist(),
                num_accepted=len(tokens) - 1,
                verification_mode=self._mode(drafts),
            )
            seat.new_features = step.features[row, : len(tokens)]
            dialogue.commit(tokens, self._block_size)

    def _committed(self, drafts: DraftBatch, logits: Tensor) -> list[list[int]]:
        """Per seat the accepted draft tokens and one more, from `logits` [R, gamma + 1, V]."""
        num_seats, gamma = drafts.tokens.shape
        drafted = drafts.tokens.flatten().to(logits.device)
        q = drafts.distribution
        if q is not None:
            flat = SparseDistribution(q.token_ids.flatten(0, 1), q.probs.flatten(0, 1))
            q = flat.to(logits.device)
        output = rejection_sample(
            drafted,
            [gamma] * num_seats,
            q,
            self._scaled(logits[:, :gamma].flatten(0, 1)),
            self._choose(logits[:, gamma]),
            torch.full((num_seats,), not self._temperature, device=logits.device),
            max_drafts=gamma,
            generator=self._generator,
        )
        return [[t for t in tokens if t != REJECTED] for tokens in output.tolist()]

    def _choose(self, logits: Tensor) -> Tensor:
        """The target's own tokens int64 [R] from `logits` [R, V]."""
        if not self._temperature:
            return logits.argmax(-1)
        return draw(self._scaled(logits).softmax(-1), self._generator)

    def _scaled(self, logits: Tensor) -> Tensor:
        return logits.float() / (self._temperature or 1.0)

    def _mode(self, drafts: DraftBatch) -> str:
        if not self._temperature:
            return "greedy"
        return "one-hot" if drafts.distribution is None else "q"
