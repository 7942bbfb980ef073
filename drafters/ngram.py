"""N-gram lookup: what followed the last time the session's text ended like this.

No weights and no features. Its context is the text itself, one token id per position, kept
like any other drafter's context: in blocks that are shared by prefix, within the window.
Drafts are certain of nothing, so they are verified one-hot, which is exact at every
temperature.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (torch's own name for it)
from torch import Tensor

from drafters.config import NgramConfig
from drafters.interface import Context, ContextLayout, ContextRows, Draft, DraftInputs

_UNKNOWN = -1  # a position without context, equal to no token


class NgramModel:
    """Proposes the continuation of the most recent longest match of the last tokens.

    Among the matches of n = max_match tokens, then n - 1, and so on, the most recent one
    counts. A continuation that reaches the anchor goes on with itself, as if the text were
    periodic. Where fewer than min_match tokens match, or the text is unknown, confidences
    are 0.
    """

    dtype = torch.float32

    def __init__(self, config: NgramConfig, device: torch.device | str) -> None:
        self.config = config
        self.device = torch.device(device)

    @property
    def layout(self) -> ContextLayout:
        """A token id in place of K, its position in place of V."""
        return ContextLayout(num_layers=1, num_heads=1, head_dim=1, dtype=torch.int32, lag=1)

    def serving(self) -> NgramModel:
        """Itself."""
        return self

    def context(self, rows: ContextRows) -> Context:
        """The token after each row, at that token's position."""
        assert rows.next_tokens is not None
        shape = (1, -1, 1, 1)
        positions = (rows.positions + 1).view(shape)
        return Context(rows.next_tokens.view(shape).int(), positions.int())

    def draft(self, inputs: DraftInputs, *, with_logits: bool = False) -> Draft:
        """Nothing is drawn and there are no logits, whatever is asked for."""
        texts = _texts(inputs)
        follows, match = _latest_match(texts, self.config.max_match)
        period = texts.shape[1] - follows  # from the match's end to the text's
        offsets = torch.arange(self.config.block_size, device=texts.device) % period.unsqueeze(1)
        found = texts.gather(1, follows.unsqueeze(1) + offsets)
        by_match = torch.tensor((0.0, *self.config.confidence_by_match), device=texts.device)
        step = (match - self.config.min_match + 1).clamp(min=0)
        known = (found != _UNKNOWN).cumprod(1)
        confidences = by_match[step].unsqueeze(1) * known
        tokens = torch.where(known.bool(), found, inputs.anchors.unsqueeze(1))
        return Draft(tokens, confidences)


def _texts(inputs: DraftInputs) -> Tensor:
    """The known text of R sessions up to the anchor, int64 [R, T], right-aligned."""
    rows = inputs.anchors.shape[0]
    tokens = inputs.context_k.view(rows, -1).long()
    back = inputs.starts.unsqueeze(1) - inputs.context_v.view(rows, -1)  # 0 is the anchor
    back = torch.where(inputs.context_mask, back, 0)
    length = int(back.max()) + 1 if back.numel() else 1
    texts = tokens.new_full((rows, length), _UNKNOWN)
    tokens = torch.where(inputs.context_mask, tokens, _UNKNOWN)
    texts.scatter_(1, length - 1 - back, tokens)
    texts[:, -1] = inputs.anchors
    return texts


def _latest_match(texts: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    """Where the text went on, int64 [R], after the best match, and its length, 0 for none.

    A position's match length is how many tokens before it equal the text's last ones.
    """
    rows, length = texts.shape
    ends = texts.new_zeros(rows, length)  # [r, i]: match length of the text before i
    equal = texts.new_ones(rows, length, dtype=torch.bool)
    for n in range(1, min(longest, length - 1) + 1):
        last = texts[:, length - n, None]
        before = F.pad(texts, (n, 0), value=_UNKNOWN)[:, :length]  # the token n before i
        equal = equal & (before == last) & (last != _UNKNOWN)
        ends += equal
    latest = torch.arange(length, device=texts.device)
    follows = (ends * length + latest).argmax(1)
    return follows, ends.gather(1, follows.unsqueeze(1)).squeeze(1)
