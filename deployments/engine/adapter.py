"""Between an engine step and a draft source: what is said after a step, what comes back.

Knows vLLM's accounting and nothing of vLLM's code, so it is tested without an engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from autoscale.policies import Policy, StepOutcome, Verified
from deployments.engine.accounting import RowAccount, account
from deployments.engine.backlog import FeatureBacklog
from deployments.engine.prefix_hash import extend_prefix_hashes
from drafters.messages import DraftBatch, DraftSource, SparseDistribution, StepBatch, StepRow

log = logging.getLogger(__name__)

_SUM_TOLERANCE = 1e-3  # how far from 1 the probabilities of a draft distribution may add up


@dataclass(frozen=True, slots=True)
class EngineStep:
    """One finished target step, as the engine's batch lists it.

    Per request i of `request_ids`: it had `num_computed[i]` tokens computed before the
    step, `num_scheduled[id]` were computed in it, `drafts[id]` of them (missing: none)
    draft tokens, and `sampled[i]` were committed. `token_ids[i]` are all its tokens,
    `num_output_left[i]` how many more it may emit, `temperatures[i]` is 0 where it is
    greedy. `features` holds one tensor
    `[>= sum(num_scheduled), hidden_size]` per auxiliary layer, rows in request order.
    """

    request_ids: Sequence[str]
    num_scheduled: Mapping[str, int]
    drafts: Mapping[str, Sequence[int]]
    num_computed: NDArray[np.int32]
    sampled: Sequence[Sequence[int]]
    token_ids: NDArray[np.int32]
    num_output_left: Sequence[int]
    temperatures: Sequence[float]
    features: Sequence[torch.Tensor]


@dataclass(slots=True)
class AdapterStats:
    """Totals since the worker started; `accepted_by_position[k]` counts draft token k."""

    steps: int = 0
    committed_tokens: int = 0
    verified_drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    steps_without_reply: int = 0
    malformed_replies: int = 0
    feature_rows: int = 0
    gaps: int = 0
    adapter_s: float = 0.0
    draft_s: float = 0.0
    accepted_by_position: list[int] = field(default_factory=list)
    ineligible: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Tracked:
    """What the drafter has been told of a request."""

    epoch: int
    fed: int  # the next position it expects
    hashes: list[bytes] = field(default_factory=list)


class SpeculationAdapter:
    """Turns steps into `StepBatch`es and drafts into the engine's draft token lists.

    A request's session opens with its first step, again under a new epoch when its
    computed position jumps (preemption, a prefix hit after it), and closes with it.
    """

    def __init__(
        self,
        source: DraftSource,
        policy: Policy,
        *,
        target_id: str,
        block_size: int,
        block_tokens: int,
        num_context_tokens: int,
        max_model_len: int,
        vocab_size: int,
    ) -> None:
        self.source = source
        self.policy = policy
        self.max_draft_tokens: int | None = None  # of a request, in a step
        self.verify_budget_tokens: int | None = None  # of all requests, in a step
        self.stats = AdapterStats(accepted_by_position=[0] * block_size)
        self._target_id = target_id
        self._block_size = block_size
        self._block_tokens = block_tokens
        self._num_context_tokens = num_context_tokens
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._tracked: dict[str, _Tracked] = {}
        self._ineligible: dict[str, str] = {}
        self._closed: list[str] = []
        self._num_epochs = 0
        self._drawn_from: dict[str, SparseDistribution] = {}
        self._no_features = torch.empty(0, 0)  # [0, feature_size] from the first step on
        self._backlog = FeatureBacklog()
        self._ended_s = 0.0
        self._drafted: set[str] = set()  # for whom drafts came after the last step

    @property
    def num_sessions(self) -> int:
        return len(self._tracked)

    def open_request(self, request_id: str, ineligible_reason: str | None) -> None:
        """A request arrived. With a reason it is never drafted for, and counted under it."""
        if ineligible_reason is not None:
            self._ineligible[request_id] = ineligible_reason
            counts = self.stats.ineligible
            counts[ineligible_reason] = counts.get(ineligible_reason, 0) + 1

    def close_requests(self, request_ids: Iterable[str]) -> None:
        """Requests that finished or were aborted; their sessions end with the next batch."""
        for request_id in request_ids:
            self._ineligible.pop(request_id, None)
            self.policy.forget(request_id)
            self.suspend_requests((request_id,))

    def suspend_requests(self, request_ids: Iterable[str]) -> None:
        """Requests that were preempted: they come back, under a new epoch."""
        for request_id in request_ids:
            if self._tracked.pop(request_id, None) is not None:
                self._closed.append(request_id)

    def flush(self) -> None:
        """Tell the drafter what closed when no step follows that would."""
        if self._closed:
            self._send(StepBatch(self._target_id, (), self._no_features, self._take_closed()))

    def step(self, step: EngineStep) -> list[list[int]]:
        """Draft tokens to verify next, per request; an empty list is plain decoding."""
        began = time.perf_counter()
        accounts = self._account(step)
        self.policy.record_step(self._outcome(step, accounts, began))
        batch, limits, may_wait = self._describe(step, accounts)
        described = time.perf_counter()
        drafts = self._ask(batch, may_wait)
        answered = time.perf_counter()
        if batch.num_drafts:
            self.policy.record_draft(batch.num_drafts, answered - described)
            self.stats.steps_without_reply += drafts is None
        self.stats.steps += 1
        tokens = self._admit(step, batch, drafts, limits)
        self._ended_s = time.perf_counter()
        self.stats.draft_s += answered - described
        self.stats.adapter_s += described - began + self._ended_s - answered
        return tokens

    def _outcome(self, step: EngineStep, accounts: list[RowAccount], now_s: float) -> StepOutcome:
        """What the step did, for the policy."""
        num_drafts = [len(step.drafts.get(id_, ())) for id_ in step.request_ids]
        verified = [
            Verified(id_, drafts, row.num_accepted)
            for id_, drafts, row in zip(step.request_ids, num_drafts, accounts, strict=True)
            if id_ in self._drafted and row.anchor is not None
        ]
        n_tokens = sum(step.num_scheduled[id_] for id_ in step.request_ids)
        only_decodes = n_tokens == len(num_drafts) + sum(num_drafts)
        # A request that was there before has kept the engine busy since.
        was_busy = any(id_ in self._tracked for id_ in step.request_ids)
        step_s = now_s - self._ended_s if only_decodes and was_busy else None
        return StepOutcome(n_tokens, step_s, verified)

    def _send(self, batch: StepBatch, *, may_wait: bool = False) -> DraftBatch | None:
        drafts = None
        for ready in self._backlog.take(batch, hold=may_wait):
            drafts = self.source.draft(ready)
        return drafts

    def _ask(self, batch: StepBatch, may_wait: bool) -> DraftBatch | None:
        """The source's drafts, or None when it fails or answers what no drafter may.

        A token outside the vocabulary would take the engine down with it.
        """
        try:
            drafts = self._send(batch, may_wait=may_wait)
        except Exception:
            log.exception("the draft source failed; decoding without drafts")
            return None
        if drafts is None or not drafts.tokens.numel():
            return drafts
        if not self._is_well_formed(batch, drafts):
            self.stats.malformed_replies += 1
            return None
        return drafts

    def _is_well_formed(self, batch: StepBatch, drafts: DraftBatch) -> bool:
        shape = (batch.num_drafts, self._block_size)
        if drafts.tokens.shape != shape or drafts.confidences.shape != shape:
            return False
        tokens, confidences = drafts.tokens.numpy(force=True), drafts.confidences.numpy(force=True)
        if tokens.min() < 0 or tokens.max() >= self._vocab_size:
            return False
        if not (confidences.min() >= 0 and confidences.max() <= 1):  # also where one is NaN
            return False
        q = drafts.distribution
        if q is None:
            return True
        if q.token_ids.shape[:2] != shape or q.probs.shape != q.token_ids.shape:
            return False
        lowest, highest = q.token_ids.aminmax()
        sums_to_one = (q.probs.sum(-1) - 1).abs().max() < _SUM_TOLERANCE
        could_be_drawn = (q.prob_of(drafts.tokens) > 0).all()
        return bool(lowest >= 0 and highest < self._vocab_size and sums_to_one and could_be_drawn)

    def draft_distribution(
        self, request_ids: Sequence[str], drafts: Mapping[str, Sequence[int]]
    ) -> SparseDistribution | None:
        """What the draft tokens of a step were drawn from, [N, k] in the order of requests.

        Drafts without a distribution, of greedy requests or of sources that give none, are
        one-hot: exact whatever the token (design section 5). None when all of them are.
        """
        drafted = [(id_, drafts[id_]) for id_ in request_ids if drafts.get(id_)]
        known = [self._drawn_from[id_] for id_, _ in drafted if id_ in self._drawn_from]
        if not known:
            return None
        width = known[0].probs.shape[-1]
        ids, probs = [], []
        for request_id, tokens in drafted:
            q = self._drawn_from.get(request_id) or _one_hot(tokens, width)
            ids.append(q.token_ids[: len(tokens)])
            probs.append(q.probs[: len(tokens)])
        return SparseDistribution(torch.cat(ids), torch.cat(probs))

    def _account(self, step: EngineStep) -> list[RowAccount]:
        """Per request what the step committed; verified drafts are counted here."""
        accounts = []
        stats = self.stats
        for request_id, sampled in zip(step.request_ids, step.sampled, strict=True):
            num_drafts = len(step.drafts.get(request_id, ()))
            row = account(step.num_scheduled[request_id], num_drafts, sampled)
            accounts.append(row)
            stats.committed_tokens += len(sampled)
            if num_drafts and sampled:
                stats.verified_drafts += 1
                stats.draft_tokens += num_drafts
                stats.accepted_tokens += row.num_accepted
                for k in range(row.num_accepted):
                    stats.accepted_by_position[k] += 1
        return accounts

    def _describe(
        self, step: EngineStep, accounts: list[RowAccount]
    ) -> tuple[StepBatch, NDArray[np.int64], bool]:
        """The batch to send, the most draft tokens of each of its drafts, may it wait.

        It may wait where requests decode and the policy wants drafts for none of them.
        """
        num_computed = step.num_computed[: len(accounts)].tolist()
        room = {
            id_: self._limit(step, i, num_computed[i] + accounts[i].num_valid)
            for i, id_ in enumerate(step.request_ids)
            if id_ not in self._ineligible and accounts[i].anchor is not None
        }
        candidates = [id_ for id_, limit in room.items() if limit > 0]
        # Prompts that are prefilled now decode soon: they count, or a load that rises
        # would be drafted for as if it were low.
        wanted = set(self.policy.choose(candidates, len(accounts)))
        # Bounds are shared out before anything is drawn: what is cut is cut unseen.
        if self.verify_budget_tokens is not None and wanted:
            share = self.verify_budget_tokens // len(wanted)
            room = {id_: min(limit, share) for id_, limit in room.items()}
            wanted = wanted if share else set()
        rows: list[StepRow] = []
        kept: list[range] = []
        first_row = 0
        for i, request_id in enumerate(step.request_ids):
            if request_id not in self._ineligible:
                computed = num_computed[i]
                row = self._row(
                    request_id,
                    computed,
                    accounts[i],
                    step.token_ids[i],
                    request_id in wanted,
                    step.temperatures[i],
                )
                skipped = row.start - computed
                kept.append(range(first_row + skipped, first_row + skipped + row.num_rows))
                rows.append(row)
            first_row += step.num_scheduled[request_id]
        features = _gather_features(step.features, kept)
        self._no_features = features[:0]
        self.stats.feature_rows += len(features)
        batch = StepBatch(self._target_id, tuple(rows), features, self._take_closed())
        limits = np.array([limit for id_, limit in room.items() if id_ in wanted], dtype=np.int64)
        return batch, limits, bool(room) and not wanted

    def _limit(self, step: EngineStep, i: int, anchor_position: int) -> int:
        """Draft tokens worth verifying at all: inside the model's length and max_tokens."""
        room = self._max_model_len - anchor_position - 1
        most = self._block_size if self.max_draft_tokens is None else self.max_draft_tokens
        return min(self._block_size, most, room, step.num_output_left[i] - 1)

    def _row(
        self,
        request_id: str,
        computed: int,
        row: RowAccount,
        token_ids: NDArray[np.int32],
        wants_draft: bool,
        temperature: float,
    ) -> StepRow:
        tracked = self._tracked.get(request_id)
        if tracked is None or tracked.fed != computed:
            self.stats.gaps += tracked is not None
            self._num_epochs += 1
            tracked = self._tracked[request_id] = _Tracked(epoch=self._num_epochs, fed=computed)
        end = computed + row.num_valid
        first_block = len(tracked.hashes)
        extend_prefix_hashes(tracked.hashes, token_ids, end, self._block_tokens)
        tracked.fed = end
        start = max(computed, self._window_start(end))
        return StepRow(
            request_id=request_id,
            epoch=tracked.epoch,
            start=start,
            num_rows=end - start,
            anchor=row.anchor if wants_draft else None,
            first_block=first_block,
            block_hashes=tuple(tracked.hashes[first_block:]),
            temperature=temperature,
        )

    def _window_start(self, end: int) -> int:
        """First position the drafter would look at, down to a block's beginning."""
        start = end - self._num_context_tokens
        return start - start % self._block_tokens

    def _take_closed(self) -> tuple[str, ...]:
        closed = tuple(self._closed)
        self._closed.clear()
        return closed

    def _admit(
        self,
        step: EngineStep,
        batch: StepBatch,
        drafts: DraftBatch | None,
        limits: NDArray[np.int64],
    ) -> list[list[int]]:
        self._drawn_from.clear()
        self._drafted.clear()
        if drafts is None or not len(limits):
            return [[] for _ in step.request_ids]
        confidences = drafts.confidences.double().numpy(force=True)
        lengths = self.policy.admit(confidences, limits, len(step.request_ids)).tolist()
        tokens = drafts.tokens.tolist()
        asked = [row.request_id for row in batch.rows if row.anchor is not None]
        self._drafted.update(asked)
        admitted = {
            request_id: drafted[:length]
            for request_id, drafted, length in zip(asked, tokens, lengths, strict=True)
        }
        q = drafts.distribution
        if q is not None:
            sampled = [row.temperature > 0 for row in batch.rows if row.anchor is not None]
            self._drawn_from = {
                request_id: SparseDistribution(q.token_ids[i], q.probs[i])
                for i, request_id in enumerate(asked)
                if sampled[i]
            }
        return [admitted.get(request_id, []) for request_id in step.request_ids]


def _gather_features(layers: Sequence[torch.Tensor], kept: Sequence[range]) -> torch.Tensor:
    """The `kept` rows of all layers, side by side; copied once."""
    if all(a.stop == b.start for a, b in pairwise(kept)):  # as in every step without drafts
        first, last = (kept[0].start, kept[-1].stop) if kept else (0, 0)
        return torch.cat([layer[first:last] for layer in layers], dim=-1)
    rows = list(chain.from_iterable(kept))
    index = torch.tensor(rows, device=layers[0].device)
    widths = [layer.shape[1] for layer in layers]
    features = layers[0].new_empty(len(rows), sum(widths))
    for layer, part in zip(layers, torch.split(features, widths, dim=1), strict=True):
        torch.index_select(layer, 0, index, out=part)
    return features


def _one_hot(tokens: Sequence[int], width: int) -> SparseDistribution:
    """All probability on each of `tokens`, [len(tokens), width]."""
    ids = torch.tensor(tokens).unsqueeze(-1).repeat(1, width)
    probs = torch.zeros(len(tokens), width)
    probs[:, 0] = 1.0
    return SparseDistribution(ids, probs)
