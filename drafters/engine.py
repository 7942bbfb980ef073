"""The draft engine: one batched draft for the sessions of many targets."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import torch
from torch import Tensor

from drafters.context import BlockPool, ContextPool
from drafters.interface import Context, ContextRows, Draft, DraftInputs, DraftModel
from drafters.messages import DraftBatch, SparseDistribution, StepBatch, StepRow
from drafters.sampling import NUM_CANDIDATES, DraftSampler
from drafters.sessions import Session, SessionKey, SessionTable, index_contexts


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. The first four count what is held now, the others since the start.

    `evictions` are cached blocks given away, `sessions_evicted` whole sessions;
    `prefix_blocks_reused` were found below a row's start; `gaps` are rows that began past
    their session's end.
    """

    sessions: int
    blocks_used: int
    blocks_cached: int
    context_tokens: int
    evictions: int
    sessions_evicted: int
    prefix_blocks_reused: int
    gaps: int
    drafts: int


class DraftEngine:
    """Keeps the context of every session and drafts for all rows of a step together.

    Not thread-safe but for `stats`. Context is a cache: running out of blocks costs context
    of the least recently used sessions and is never an error.
    """

    def __init__(
        self,
        model: DraftModel,
        *,
        num_blocks: int,
        block_tokens: int,
        num_context_tokens: int,
        num_candidates: int = NUM_CANDIDATES,
        seed: int | None = None,
    ) -> None:
        """`num_context_tokens` is each session's sliding window, `seed` that of sampled drafts,
        which are drawn from the `num_candidates` likeliest tokens.

        Raises ValueError when the blocks cannot hold one session's window.
        """
        if min(num_blocks, block_tokens, num_context_tokens, num_candidates) < 1:
            raise ValueError(
                "num_blocks, block_tokens, num_context_tokens and num_candidates must be positive"
            )
        needed = (num_context_tokens + block_tokens - 2) // block_tokens + 1
        if num_blocks < needed:
            raise ValueError(
                f"num_blocks is {num_blocks}; a window of {num_context_tokens} tokens can touch "
                f"{needed} blocks of {block_tokens}: give at least that many"
            )
        self.model = model
        self._served = model.serving()
        self._num_context_tokens = num_context_tokens
        self._blocks = BlockPool(num_blocks)
        self._context = ContextPool(
            self._served.layout,
            num_blocks=num_blocks,
            block_tokens=block_tokens,
            device=model.device,
        )
        self._table = SessionTable(self._blocks, self._context, num_context_tokens)
        self.num_candidates = num_candidates
        self._sampler = DraftSampler(model.device, num_candidates=num_candidates, seed=seed)
        self._num_drafts = 0

    @property
    def num_sessions(self) -> int:
        """Open sessions of all targets."""
        return len(self._table.sessions)

    @property
    def stats(self) -> EngineStats:
        """Counts as of now; safe to take from any thread, also during a step."""
        sessions = tuple(self._table.sessions.values())  # in one go: a step changes them
        return EngineStats(
            sessions=len(sessions),
            blocks_used=self._blocks.num_used,
            blocks_cached=self._blocks.num_cached,
            context_tokens=sum(session.table.num_tokens for session in sessions),
            evictions=self._blocks.num_evictions,
            sessions_evicted=self._table.num_sessions_evicted,
            prefix_blocks_reused=self._table.num_prefix_blocks_reused,
            gaps=self._table.num_gaps,
            drafts=self._num_drafts,
        )

    def close_target(self, target_id: str) -> None:
        """End all sessions of a target that has gone."""
        self._table.close_target(target_id)

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        """Take in the features of several targets' steps and draft for them together.

        The drafts lie on the model's device. Two steps of one target in the same call run
        one after the other. Raises ValueError on a malformed batch, before any change.
        """
        for batch in batches:
            self._check(batch)
        drafts: dict[int, DraftBatch] = {}
        for wave in _waves(batches):
            draft = self._run([batches[i] for i in wave])
            counts = [batches[i].num_drafts for i in wave]
            drafts |= zip(wave, _split(draft, counts), strict=True)
        return [drafts[i] for i in range(len(batches))]

    def trace(self, batch: StepBatch) -> Draft:
        """`step` for one batch, with the logits and hidden states behind its drafts."""
        self._check(batch)
        return self._run([batch], with_logits=True)

    @torch.inference_mode()
    def _run(self, batches: list[StepBatch], *, with_logits: bool = False) -> Draft:
        rows = [row for batch in batches for row in batch.rows]
        kept = [min(row.num_rows, self._num_context_tokens) for row in rows]
        context = self._project(batches, rows, kept)
        sessions = self._feed(batches)
        writes = self._table.take_writes()
        if context is not None:
            self._context.write(writes, context.k, context.v)
        drafting = [i for i, row in enumerate(rows) if row.anchor is not None]
        if not drafting:
            return self._nothing()
        hidden = None if context is None else context.hidden
        if hidden is not None:
            hidden = self._newest(hidden, kept, drafting)
        return self._draft(rows, sessions, drafting, hidden, with_logits)

    def _project(
        self, batches: list[StepBatch], rows: list[StepRow], kept: list[int]
    ) -> Context | None:
        """Context of all new rows that fall in their session's window: the last `kept` each."""
        if not sum(kept):
            return None
        model = self.model
        newest = list(zip(rows, kept, strict=True))
        positions = np.concatenate([np.arange(row.end - n, row.end) for row, n in newest])
        next_tokens = None
        if model.config.needs_tokens:
            tokens = chain.from_iterable(row.tokens[row.num_rows - n :] for row, n in newest)
            next_tokens = torch.tensor(list(tokens), device=model.device)
        features = [self._kept_features(batch).to(model.device, model.dtype) for batch in batches]
        return self._served.context(
            ContextRows(
                features[0] if len(features) == 1 else torch.cat(features),
                torch.from_numpy(positions).to(model.device),
                next_tokens,
            )
        )

    def _newest(self, hidden: Tensor, kept: list[int], drafting: list[int]) -> Tensor:
        """`hidden` [N, d] of the last kept row of each drafting one; zeros where it has none."""
        ends = list(accumulate(kept))
        last = torch.tensor([ends[i] - 1 for i in drafting], device=hidden.device)
        newest = hidden.index_select(0, last.clamp(min=0))
        empty = [n for n, i in enumerate(drafting) if not kept[i]]
        if empty:
            newest[empty] = 0.0
        return newest

    def _kept_features(self, batch: StepBatch) -> Tensor:
        """A batch's features without the rows that lie before their session's window."""
        window = self._num_context_tokens
        if all(row.num_rows <= window for row in batch.rows):
            return batch.features
        parts = torch.split(batch.features, [row.num_rows for row in batch.rows])
        return torch.cat([part[-window:] for part in parts])

    def _feed(self, batches: list[StepBatch]) -> list[Session]:
        """Bring the sessions up to date; returns those of all rows, in order."""
        for batch in batches:
            for request_id in batch.closed:
                self._table.close(SessionKey(batch.target_id, request_id))
        keyed = [
            (SessionKey(batch.target_id, row.request_id), row)
            for batch in batches
            for row in batch.rows
        ]
        self._table.touch(key for key, _ in keyed)
        sessions, source = [], 0
        for key, row in keyed:
            sessions.append(self._table.feed(key, row, source))
            source += min(row.num_rows, self._num_context_tokens)
        return sessions

    def _draft(
        self,
        rows: list[StepRow],
        sessions: list[Session],
        drafting: list[int],
        hidden: Tensor | None,
        with_logits: bool,
    ) -> Draft:
        """One draft of all rows with an anchor, those of the indices `drafting`."""
        self._num_drafts += len(drafting)
        device = self.model.device
        temperatures = [rows[i].temperature for i in drafting]
        index = index_contexts([sessions[i] for i in drafting], self._context.block_tokens)
        context_k, context_v = self._context.gather(torch.from_numpy(index.slots).to(device))
        inputs = DraftInputs(
            anchors=torch.tensor([rows[i].anchor for i in drafting], device=device),
            starts=torch.tensor([rows[i].end for i in drafting], device=device),
            context_k=context_k,
            context_v=context_v,
            context_mask=torch.from_numpy(index.mask).to(device),
            hidden=hidden,
            temperatures=torch.tensor(temperatures, device=device),
            sampler=self._sampler if any(temperatures) else None,
        )
        return self._served.draft(inputs, with_logits=with_logits)

    def _nothing(self) -> Draft:
        shape, device = (0, self.model.config.block_size), self.model.device
        tokens = torch.empty(shape, dtype=torch.int64, device=device)
        return Draft(tokens, torch.empty(shape, device=device))

    def _check(self, batch: StepBatch) -> None:
        """Raise ValueError saying what is wrong with a batch."""
        where = f"step of target {batch.target_id!r}"
        expected = (sum(row.num_rows for row in batch.rows), self.model.config.feature_size)
        if tuple(batch.features.shape) != expected:
            raise ValueError(
                f"{where}: features are {list(batch.features.shape)}; its rows and this drafter "
                f"need {list(expected)}"
            )
        if not batch.features.is_floating_point():
            raise ValueError(f"{where}: features are {batch.features.dtype}, not floating point")
        seen = set()
        for row in batch.rows:
            if row.request_id in seen:
                raise ValueError(f"{where}: request {row.request_id!r} has more than one row")
            seen.add(row.request_id)
            self._check_row(row, f"{where}, request {row.request_id!r}")

    def _check_row(self, row: StepRow, where: str) -> None:
        vocab_size = self.model.config.vocab_size
        if min(row.start, row.num_rows, row.first_block) < 0:
            raise ValueError(
                f"{where}: start {row.start}, num_rows {row.num_rows} and first_block "
                f"{row.first_block} must not be negative"
            )
        if row.anchor is not None and not 0 <= row.anchor < vocab_size:
            raise ValueError(f"{where}: anchor {row.anchor} is not in 0 .. {vocab_size - 1}")
        if self.model.config.needs_tokens:
            self._check_tokens(row, where)
        if not (row.temperature >= 0 and math.isfinite(row.temperature)):
            raise ValueError(f"{where}: temperature {row.temperature} is not 0 or above")

    def _check_tokens(self, row: StepRow, where: str) -> None:
        if len(row.tokens) != row.num_rows:
            raise ValueError(
                f"{where}: {len(row.tokens)} tokens for {row.num_rows} feature rows; this "
                "drafter needs the token after each"
            )
        if not row.tokens:
            return
        vocab_size = self.model.config.vocab_size
        if min(row.tokens) < 0 or max(row.tokens) >= vocab_size:
            raise ValueError(f"{where}: tokens outside 0 .. {vocab_size - 1}")
        if row.anchor is not None and row.tokens[-1] != row.anchor:
            raise ValueError(
                f"{where}: the last of its tokens is {row.tokens[-1]}, not the anchor {row.anchor}"
            )


def _split(draft: Draft, counts: list[int]) -> list[DraftBatch]:
    """The drafts of each batch: the next `counts[i]` rows."""
    tokens, confidences = torch.split(draft.tokens, counts), torch.split(draft.confidences, counts)
    if draft.distribution is None:
        return list(map(DraftBatch, tokens, confidences))
    ids = torch.split(draft.distribution.token_ids, counts)
    probs = torch.split(draft.distribution.probs, counts)
    distributions = map(SparseDistribution, ids, probs)
    return list(map(DraftBatch, tokens, confidences, distributions))


def _waves(batches: Iterable[StepBatch]) -> list[list[int]]:
    """Indices of batches that can run together: each target at most once per wave."""
    waves: list[list[int]] = []
    num_seen: dict[str, int] = {}
    for i, batch in enumerate(batches):
        wave = num_seen.get(batch.target_id, 0)
        num_seen[batch.target_id] = wave + 1
        if wave == len(waves):
            waves.append([])
        waves[wave].append(i)
    return waves
