"""Tensor parallelism: rank 0 drafts, every rank verifies the same drafts.

vLLM's scheduler hands the draft tokens that rank 0 returns to all ranks. What it does not
hand on is the distribution they were drawn from, so that is broadcast before a batch with
sampled requests is verified. Each rank then draws the same random numbers from a generator
of the same seed: nothing else may draw from it, on any rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from deployments.engine.engine_step import EngineStep, RequestTerms
from drafters.messages import SparseDistribution


class Follower:
    """In place of the adapter on the ranks that do not draft: no source, no sessions."""

    def begin_step(
        self, num_scheduled: Mapping[str, int], drafts: Mapping[str, Sequence[int]]
    ) -> None:
        """Nothing is held back."""

    def open_request(self, request_id: str, terms: RequestTerms) -> None:
        """Rank 0 keeps count."""

    def close_requests(self, request_ids: Iterable[str]) -> None:
        """Nothing is open."""

    def suspend_requests(self, request_ids: Iterable[str]) -> None:
        """Nothing is open."""

    def flush(self) -> None:
        """Nothing is pending."""

    def step(self, step: EngineStep) -> list[list[int]]:
        """Rank 0's answer is the one that counts."""
        return [[] for _ in step.request_ids]

    def draft_distribution(
        self, request_ids: Sequence[str], drafts: Mapping[str, Sequence[int]]
    ) -> SparseDistribution | None:
        """Comes from rank 0, by `broadcast_distribution`."""
        return None


def broadcast_distribution(q: SparseDistribution | None, group: Any) -> SparseDistribution | None:
    """Rank 0's `q` on every rank of vLLM's `group`; all of them have to call this."""
    ours = {} if q is None else {"token_ids": q.token_ids, "probs": q.probs}
    shared = group.broadcast_tensor_dict(ours, src=0)
    return SparseDistribution(**shared) if shared else None


class CommittedDigest:
    """A running checksum of all committed tokens: equal on ranks that agree."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, sampled: Sequence[Sequence[int]]) -> None:
        self.value = crc32(repr(sampled).encode(), self.value)
