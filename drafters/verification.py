"""Verification of draft tokens against the target: sampled requests keep its distribution.

Speculative sampling (Leviathan et al., 2023, algorithm 1) with a sparse draft
distribution: only its k entries are stored, where vLLM's sampler wants a row over the
whole vocabulary for every draft token. A draft without a distribution of its own is
verified one-hot, which is the same rule with all of q on the drafted token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from drafters.messages import SparseDistribution

REJECTED = -1  # fills the output behind the last token, as vLLM expects


def rejection_sample(
    draft_tokens: Tensor,
    num_drafts: Sequence[int],
    distribution: SparseDistribution | None,
    target_logits: Tensor,
    bonus_tokens: Tensor,
    greedy: Tensor,
    *,
    max_drafts: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The tokens every request commits, int32 [R, max_drafts + 1], -1 behind the last.

    Request r has `num_drafts[r]` of the N `draft_tokens`, in order. `distribution` [N, k]
    is what they were drawn from, None when all are verified one-hot; `target_logits`
    [N, V] have temperature, top-k and top-p applied; `bonus_tokens` [R] are the target's
    own after a draft that is accepted whole; `greedy` bool [R] names requests that take
    the likeliest token. Draws from `generator`, None being torch's default one.
    """
    drafts = draft_tokens.long()
    counts = torch.tensor(num_drafts, device=drafts.device)
    request = torch.repeat_interleave(counts)  # [N]: whose draft token it is
    first = counts.cumsum(0) - counts  # [R]: where a request's draft tokens begin
    position = torch.arange(len(drafts), device=drafts.device) - first[request]
    choices = target_logits.argmax(-1)
    probs = target_logits.softmax(-1, dtype=torch.float32)
    p = probs.gather(-1, drafts.unsqueeze(-1)).squeeze(-1)
    q = torch.ones_like(p) if distribution is None else distribution.prob_of(drafts)
    uniform = torch.rand(
        len(drafts), dtype=torch.float64, device=drafts.device, generator=generator
    )
    accepted = torch.where(greedy[request], choices == drafts, uniform < acceptance_ratio(p, q))
    grid = torch.zeros(len(counts), max_drafts, dtype=torch.bool, device=drafts.device)
    grid[request, position] = accepted
    num_accepted = grid.cumprod(-1).sum(-1)  # [R]
    output = torch.full((len(counts), max_drafts + 1), REJECTED, device=drafts.device)
    kept = position < num_accepted[request]
    output[request[kept], position[kept]] = drafts[kept]
    last = bonus_tokens.long().clone()
    stopped = (num_accepted < counts).nonzero().squeeze(-1)
    rejected = first[stopped] + num_accepted[stopped]  # [S]: the first rejected draft token
    if len(stopped):
        recovered = _recover(probs, drafts, distribution, rejected, generator)
        last[stopped] = torch.where(greedy[stopped], choices[rejected], recovered)
    output.scatter_(1, num_accepted.unsqueeze(1), last.unsqueeze(1))
    return output.int()


def acceptance_ratio(p: Tensor, q: Tensor) -> Tensor:
    """P(a draft token is accepted), of its probability under target and drafter.

    Above 1 it is certain. A token that q could not have given is never accepted.
    """
    return torch.where(q > 0, p.double() / q.double(), 0.0)


def _recover(
    probs: Tensor,
    drafts: Tensor,
    distribution: SparseDistribution | None,
    rejected: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """Tokens int64 [S] drawn from max(p - q, 0), renormalised, at the `rejected` positions."""
    p = probs[rejected]
    if distribution is None:
        left = p.scatter(-1, drafts[rejected].unsqueeze(-1), 0.0)
    else:
        ids, q = distribution.token_ids[rejected], distribution.probs[rejected]
        left = p.scatter_add(-1, ids, -q).clamp_min_(0.0)
    # Where rounding leaves nothing, p and q were the same: either serves.
    left = torch.where(left.sum(-1, keepdim=True) > 0, left, p)
    return draw(left, generator)


def draw(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Indices int64 [...] drawn in proportion to `weights` [..., V], at least one of them > 0."""
    return (weights / torch.empty_like(weights).exponential_(generator=generator)).argmax(-1)
