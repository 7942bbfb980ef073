"""How a block of draft tokens is chosen from logits, whatever made the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from drafters.confidence import TopProbConfidence, top_log_odds
from drafters.interface import Draft, DraftInputs
from drafters.messages import SparseDistribution


class BlockWriter:
    """Chooses the tokens of R blocks and keeps what a `Draft` says about them.

    `target_ids` int64 [V'] translates a reduced draft vocabulary, None where there is none:
    tokens and their distributions are always the target's. With a `confidence` model, the
    confidences come from the distributions themselves; otherwise `finish` is given them, as a
    head foresees them: how far drafter and target overlap over all tokens. Of that, a token
    drawn from some candidates only can have what these hold.
    """

    def __init__(
        self,
        inputs: DraftInputs,
        *,
        target_ids: Tensor | None = None,
        confidence: TopProbConfidence | None = None,
        with_logits: bool = False,
    ) -> None:
        self._temperatures, self._sampler = inputs.temperatures, inputs.sampler
        self._target_ids = target_ids
        self._confidence = confidence
        self._with_logits = with_logits
        # Columns of the block, each [R, n, ...].
        self._tokens: list[Tensor] = []
        self._logits: list[Tensor] = []
        self._log_odds: list[Tensor] = []
        self._drawn_ids: list[Tensor] = []
        self._drawn_probs: list[Tensor] = []
        self._kept: list[Tensor] = []

    def choose(self, logits: Tensor) -> Tensor:
        """The next position's tokens int64 [R] from its `logits` [R, V']."""
        if self._confidence is not None:
            self._log_odds.append(top_log_odds(logits).unsqueeze(1))
        if self._sampler is None or self._temperatures is None:
            # In bfloat16 on CPU, max with indices takes half the time of argmax.
            token = self._translated(logits.max(-1).indices)
        else:
            token, drawn, kept = self._sampler.choose(
                logits, self._temperatures, with_kept=self._confidence is None
            )
            token = self._translated(token)
            if kept is not None:
                self._kept.append(kept.unsqueeze(1))
            self._drawn_ids.append(self._translated(drawn.token_ids).unsqueeze(1))
            self._drawn_probs.append(drawn.probs.unsqueeze(1))
        self._tokens.append(token.unsqueeze(1))
        if self._with_logits:
            self._logits.append(logits.unsqueeze(1))
        return token

    def choose_all(self, logits: Tensor) -> None:
        """Every position from `logits` [R, gamma, V'], where none waits for a token."""
        if self._sampler is not None and self._temperatures is not None:
            for column in logits.unbind(1):
                self.choose(column)
            return
        self._tokens.append(self._translated(logits.max(-1).indices))
        if self._confidence is not None:
            self._log_odds.append(top_log_odds(logits))
        if self._with_logits:
            self._logits.append(logits)

    def finish(self, hidden: Tensor, confidence_logits: Tensor | None = None) -> Draft:
        """The draft; `confidence_logits` float32 [R, gamma] of a head, where there is one."""
        if confidence_logits is None:
            assert self._confidence is not None, "no confidences: neither a head nor a model"
            confidences = self._confidence.confidences(torch.cat(self._log_odds, dim=1))
        else:
            confidences = confidence_logits.sigmoid()
            if self._kept:
                confidences = confidences * torch.cat(self._kept, dim=1)
        return Draft(
            torch.cat(self._tokens, dim=1),
            confidences,
            hidden,
            torch.cat(self._logits, dim=1) if self._logits else None,
            confidence_logits,
            self._distribution(),
        )

    def _translated(self, draft_ids: Tensor) -> Tensor:
        return draft_ids if self._target_ids is None else self._target_ids[draft_ids]

    def _distribution(self) -> SparseDistribution | None:
        if not self._drawn_ids:
            return None
        return SparseDistribution(
            torch.cat(self._drawn_ids, dim=1), torch.cat(self._drawn_probs, dim=1)
        )
