"""Between an engine step and a draft source: what is said after a step, what comes back.

Knows vLLM's accounting and nothing of vLLM's code, so it is tested without an engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from autoscale.policies import Policy, StepOutcome, Verified
from deployments.engine.accounting import RowAccount, account
from deployments.engine.backlog import FeatureBacklog
from deployments.engine.canary_arm import CanaryArm
from deployments.engine.draft_calibration import DraftCalibration
from deployments.engine.eligibility import PROBE
from deployments.engine.engine_step import AdapterStats, EngineStep, RequestTerms
from deployments.engine.features import gather_features
from deployments.engine.plain_run import PlainRun, RunBuffer
from deployments.engine.reply import is_well_formed, one_hot
from deployments.engine.session_rows import SessionRows
from deployments.engine.step_forecast import StepForecast
from deployments.tracing.draft_spans import DraftSpans
from drafters.messages import DraftBatch, DraftSource, SparseDistribution, StepBatch, StepRow

log = logging.getLogger(__name__)

_AT_ONCE_S = 1e-3  # within which no drafts means that nobody was asked for any
_MAX_RUN_ROWS = 1024  # feature rows that a run of plain steps keeps to itself
_DEFAULT_TERMS = RequestTerms()
_UNBOUNDED = 1 << 30


class SpeculationAdapter:
    """Turns steps into `StepBatch`es and drafts into the engine's draft token lists."""

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
        feature_dtype: torch.dtype = torch.float32,
        needs_tokens: bool = False,
        max_step_tokens: int = _UNBOUNDED,
        max_requests: int = _UNBOUNDED,
    ) -> None:
        """`feature_dtype` is the drafter's, which it would make of the features anyway.

        `needs_tokens`: rows carry the token ids behind their features, for drafters that
        read them. A step computes at most `max_step_tokens` of
        `max_requests`.
        """
        self.source = source
        self.policy = policy
        self.max_draft_tokens: int | None = None  # of a request, in a step
        self.verify_budget_tokens: int | None = None  # of all requests, in a step
        self.stats = AdapterStats.of_blocks(block_size)
        self.calibration = DraftCalibration(block_size)
        self.forecast = StepForecast(max_step_tokens, max_requests)
        self.canary: CanaryArm | None = None  # whose source is `source` then
        self._expected_of_canaries = np.zeros(block_size)  # that have ended
        self.spans: DraftSpans | None = None  # of requests that are traced
        self._target_id = target_id
        self._block_size = block_size
        self._num_context_tokens = num_context_tokens
        self._max_model_len = max_model_len
        self._vocab_size = vocab_size
        self._feature_dtype = feature_dtype
        self._terms: dict[str, RequestTerms] = {}
        self._sessions = SessionRows(
            block_tokens=block_tokens,
            num_context_tokens=num_context_tokens,
            needs_tokens=needs_tokens,
            on_jump=self._count_gap,
        )
        self._drawn_from: dict[str, SparseDistribution] = {}
        self._no_features = torch.empty(0, 0)  # [0, feature_size] from the first step on
        self._backlog = FeatureBacklog()
        self._step_began_s = 0.0  # what the engine has done since, drafting aside
        self._drafted: set[str] = set()  # for whom drafts came, or were waited for in vain
        self._run: PlainRun | None = None
        self._run_buffer = RunBuffer(_MAX_RUN_ROWS, feature_dtype)

    @property
    def num_sessions(self) -> int:
        return len(self._sessions)

    @property
    def session_ids(self) -> frozenset[str]:
        """Requests that a drafter knows of."""
        return self._sessions.ids

    def expected_by_position(self) -> list[float]:
        """How many drafts were to be accepted up to each of their admitted positions, by their
        calibrated confidences; a canary's too."""
        expected = self._expected_of_canaries + self.calibration.replica.expected_by_position()
        if self.canary is not None:
            expected += self.canary.calibration.replica.expected_by_position()
        by_position: list[float] = expected.tolist()
        return by_position

    def end_canary(self) -> None:
        """The new drafter's trial is over; what was expected of it stays counted."""
        assert self.canary is not None
        self._expected_of_canaries += self.canary.calibration.replica.expected_by_position()
        self.source, self.canary = self.canary.source.serving, None

    def begin_step(
        self, num_scheduled: Mapping[str, int], drafts: Mapping[str, Sequence[int]]
    ) -> None:
        """What the coming step computes, told while the engine's rows are still the last one's."""
        if self._run is not None and not self._run.goes_on(num_scheduled, drafts):
            self._end_run()

    def open_request(self, request_id: str, terms: RequestTerms) -> None:
        """A request arrived. One that is never drafted for is counted by its reason."""
        self._terms[request_id] = terms
        self.forecast.open(request_id, terms)
        if terms.trace and self.spans is not None:
            self.spans.open(request_id, terms.trace, terms.ineligible)
        if terms.ineligible not in (None, PROBE):
            counts = self.stats.ineligible
            counts[terms.ineligible] = counts.get(terms.ineligible, 0) + 1

    def close_requests(self, request_ids: Collection[str]) -> None:
        """Requests that finished or were aborted; their sessions end with the next batch."""
        if self.canary is not None:
            self.canary.end(request_ids)
        for request_id in request_ids:
            self._terms.pop(request_id, None)
            self.forecast.close(request_id)
            self.policy.forget(request_id)
            self.calibration.forget(request_id)
            if self.spans:
                self.spans.close(request_id)
            self.suspend_requests((request_id,))

    def suspend_requests(self, request_ids: Iterable[str]) -> None:
        """Requests that were preempted: they come back, under a new epoch."""
        for request_id in request_ids:
            self._sessions.close(request_id)

    def flush(self) -> None:
        """Tell the drafter what closed when no step follows that would."""
        if closed := self._sessions.take_closed():
            self._ask(StepBatch(self._target_id, (), self._no_features, closed), may_wait=False)

    def step(self, step: EngineStep) -> list[list[int]]:
        """Draft tokens to verify next, per request; an empty list is plain decoding."""
        began = time.perf_counter()
        self.stats.steps += 1
        if self._run is not None:
            if self._goes_on_plain(self._run, step, began):
                self._step_began_s = began
                self.stats.adapter_s += time.perf_counter() - began
                return [[] for _ in step.request_ids]
            self._end_run(step.request_ids)
        accounts = self._account(step)
        outcome = self._outcome(step, accounts, began)
        self.policy.record_step(outcome)
        self.calibration.record(outcome.verified)
        if self.canary is not None:
            self.canary.record(outcome.verified)
        if self.spans:
            self.spans.verified(outcome.verified)
        batch, limits, may_wait = self._describe(step, accounts)
        catches_up = self._catches_up(batch)
        if self.spans:
            batch = self.spans.marked(batch)
        described = time.perf_counter()
        drafts = self._ask(batch, may_wait)
        answered = time.perf_counter()
        if self.spans:
            self.spans.asked(batch.rows, answered - described, answered=drafts is not None)
        in_vain = False
        if batch.num_drafts:
            if not catches_up and (drafts is not None or answered - described > _AT_ONCE_S):
                self.stats.time_draft(answered - described)
                self.policy.record_draft(batch.num_drafts, answered - described)
                in_vain = drafts is None
            self.stats.steps_without_reply += drafts is None
        tokens = self._admit(step, batch, drafts, limits)
        if in_vain:
            self._drafted.update(row.request_id for row in batch.rows if row.anchor is not None)
        if not self._drafted:
            self._run = self._begin_run(step, accounts)
        self._step_began_s = began + answered - described
        self.stats.draft_s += answered - described
        self.stats.adapter_s += described - began + time.perf_counter() - answered
        return tokens

    def _begin_run(self, step: EngineStep, accounts: list[RowAccount]) -> PlainRun | None:
        """What goes on as a run if the next step is a plain one; None while prompts are read."""
        too_many = len(accounts) > _MAX_RUN_ROWS
        if not accounts or too_many or any(row.anchor is None for row in accounts):
            return None
        start = step.num_computed[: len(accounts)] + np.array([row.num_valid for row in accounts])
        kept = [(i, id_) for i, id_ in enumerate(step.request_ids) if id_ in self._sessions]
        return PlainRun(step.request_ids, start, kept, step.token_ids, self._run_buffer)

    def _goes_on_plain(self, run: PlainRun, step: EngineStep, now_s: float) -> bool:
        """Whether the step is one more of the run and the policy wants no drafts after it."""
        num_requests = len(run.request_ids)
        if not (run.is_next(step.request_ids, step.num_computed) and all(step.sampled)):
            return False
        if not self.policy.pauses(num_requests):
            return False
        step_s = now_s - self._step_began_s
        context = int(step.num_computed[:num_requests].sum())
        self.stats.time_step(step_s)
        self.policy.record_step(StepOutcome(num_requests, num_requests, step_s, (), context))
        self.stats.committed_tokens += num_requests
        run.append(step.features)
        if run.is_full(self._num_context_tokens):
            self._end_run()
            self._run = run.rest()
        return True

    def _end_run(self, request_ids: Sequence[str] | None = None) -> None:
        """Tell the drafter what the run computed, without asking for anything.

        `request_ids` are the engine's rows now, where they may not be the run's any more.
        """
        run, self._run = self._run, None
        if run is None or not (run.kept and run.num_steps):
            return
        row_of = {id_: i for i, id_ in enumerate(request_ids or run.request_ids)}
        num_valid = run.num_steps
        rows = tuple(
            self._sessions.row(
                id_,
                int(run.start[i]),
                num_valid,
                None,
                run.token_ids[row_of[id_]],
                self._terms.get(id_, _DEFAULT_TERMS).temperature,
            )
            for i, id_ in run.kept
        )
        features = run.take_features()
        self.stats.feature_rows += len(features)
        self._ask(
            StepBatch(self._target_id, rows, features, self._sessions.take_closed()), may_wait=True
        )

    def _outcome(self, step: EngineStep, accounts: list[RowAccount], now_s: float) -> StepOutcome:
        """What the step did, for the policy."""
        verified = [
            Verified(id_, row.num_drafts, row.num_accepted)
            for id_, row in zip(step.request_ids, accounts, strict=True)
            if id_ in self._drafted and row.anchor is not None
        ]
        n_tokens = sum(step.num_scheduled[id_] for id_ in step.request_ids)
        prompt_tokens = n_tokens - len(accounts) - sum(row.num_drafts for row in accounts)
        # A request that was there before has kept the engine busy since.
        was_busy = any(id_ in self._sessions for id_ in step.request_ids)
        step_s = now_s - self._step_began_s if was_busy else None
        if step_s is not None and not prompt_tokens:
            self.stats.time_step(step_s)
        context = int(step.num_computed[: len(accounts)].sum())
        return StepOutcome(n_tokens, len(accounts), step_s, verified, context, prompt_tokens)

    def _catches_up(self, batch: StepBatch) -> bool:
        """Whether the drafter first takes in a prompt or a backlog: no measure of its cost."""
        most = self._block_size + 1  # rows that a verified draft leaves
        return self._backlog.num_rows > 0 or any(row.num_rows > most for row in batch.rows)

    def _send(self, batch: StepBatch, *, may_wait: bool = False) -> DraftBatch | None:
        drafts = None
        for ready in self._backlog.take(batch, hold=may_wait):
            drafts = self.source.draft(ready)
        return drafts

    def _ask(self, batch: StepBatch, may_wait: bool) -> DraftBatch | None:
        """The source's drafts, or None when it fails or answers what no drafter may."""
        try:
            drafts = self._send(batch, may_wait=may_wait)
        except Exception:
            log.exception("the draft source failed; decoding without drafts")
            return None
        if drafts is None or not drafts.tokens.numel():
            return drafts
        if not is_well_formed(drafts, (batch.num_drafts, self._block_size), self._vocab_size):
            self.stats.malformed_replies += 1
            return None
        return drafts

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
        width, device = known[0].probs.shape[-1], known[0].probs.device
        ids, probs = [], []
        for request_id, tokens in drafted:
            q = self._drawn_from.get(request_id) or one_hot(tokens, width, device)
            ids.append(q.token_ids[: len(tokens)])
            probs.append(q.probs[: len(tokens)])
        return SparseDistribution(torch.cat(ids), torch.cat(probs))

    def _account(self, step: EngineStep) -> list[RowAccount]:
        """Per request what the step committed; verified drafts are counted here."""
        accounts = []
        stats, forecast = self.stats, self.forecast
        for i, (request_id, sampled) in enumerate(zip(step.request_ids, step.sampled, strict=True)):
            num_scheduled = step.num_scheduled[request_id]
            row = account(num_scheduled, len(step.drafts.get(request_id, ())), sampled)
            accounts.append(row)
            if forecast.is_reading(request_id):
                end = int(step.num_computed[i]) + num_scheduled
                forecast.read(request_id, end, has_begun=bool(sampled))
            stats.committed_tokens += len(sampled)
            if row.num_drafts and sampled:
                stats.count_draft(row.num_drafts, row.num_accepted)
        return accounts

    def _describe(
        self, step: EngineStep, accounts: list[RowAccount]
    ) -> tuple[StepBatch, NDArray[np.int64], bool]:
        """The batch to send, the most draft tokens of each of its drafts, may it wait.

        It may wait where requests decode and the policy wants drafts for none of them.
        """
        num_computed = step.num_computed[: len(accounts)].tolist()
        terms = [self._terms.get(id_, _DEFAULT_TERMS) for id_ in step.request_ids]
        room = {
            id_: self._limit(terms[i], num_computed[i] + accounts[i].num_valid)
            for i, id_ in enumerate(step.request_ids)
            if accounts[i].anchor is not None and terms[i].ineligible is None
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
            if terms[i].ineligible is None:
                computed = num_computed[i]
                row = self._sessions.row(
                    request_id,
                    computed,
                    accounts[i].num_valid,
                    accounts[i].anchor if request_id in wanted else None,
                    step.token_ids[i],
                    terms[i].temperature,
                )
                first_kept = first_row + row.start - computed
                kept.append(range(first_kept, first_kept + row.num_rows))
                rows.append(row)
            first_row += step.num_scheduled[request_id]
        features = gather_features(step.features, kept, self._feature_dtype)
        self._no_features = features[:0]
        self.stats.feature_rows += len(features)
        batch = StepBatch(self._target_id, tuple(rows), features, self._sessions.take_closed())
        limits = np.array([limit for id_, limit in room.items() if id_ in wanted], dtype=np.int64)
        return batch, limits, bool(room) and not wanted

    def _limit(self, terms: RequestTerms, anchor_position: int) -> int:
        """Draft tokens worth verifying at all: inside the model's length and max_tokens."""
        most = self._block_size if self.max_draft_tokens is None else self.max_draft_tokens
        room = self._max_model_len - anchor_position - 1
        # The bonus token behind the drafts counts as output too.
        left = terms.max_positions - anchor_position - 2
        return min(self._block_size, most, room, left)

    def _count_gap(self) -> None:
        self.stats.gaps += 1

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
        q = drafts.distribution
        asked = [row for row in batch.rows if row.anchor is not None]
        if drafts.answered is not None:
            limits = np.where(drafts.answered.numpy(force=True), limits, 0)
        admit = self.calibration.admit
        if self.canary is not None:
            admit = partial(self.canary.admit, self.calibration)
        lengths = admit(
            self.policy,
            asked,
            drafts.confidences.double().numpy(force=True),
            limits,
            len(step.request_ids),
            self.forecast.terms(step.request_ids, [row.request_id for row in asked]),
            with_q=q is not None,
        )
        cut = zip(asked, drafts.tokens.tolist(), lengths.tolist(), strict=True)
        admitted = {row.request_id: drafted[:length] for row, drafted, length in cut}
        self._drafted.update(admitted)
        if q is not None:
            self._drawn_from = {
                row.request_id: SparseDistribution(q.token_ids[i], q.probs[i])
                for i, row in enumerate(asked)
                if row.temperature > 0
            }
        return [admitted.get(request_id, []) for request_id in step.request_ids]
