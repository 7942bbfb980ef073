"""Two drafters behind one target: the serving one, and a new one for a share of the sessions."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import torch
import zmq

from drafters.messages import DraftBatch, SparseDistribution, StepBatch
from drafters.sources import Pending, RemoteDraftSource, SourceStats, rows_of_batch

Joins = Callable[[str], bool]
Waited = Callable[[bool, float | None], None]


class CanarySource:
    """Sends every session to one of two drafters and puts their drafts together.

    A session stays where it began: `joins` is asked once for each request, and those in
    `known` are the serving drafter's. Both are asked before either is waited for. `waited` is
    told of every answer: whether it is the canary's, and its seconds, None without one.
    """

    def __init__(
        self,
        serving: RemoteDraftSource,
        canary: RemoteDraftSource,
        joins: Joins,
        known: Collection[str] = (),
        waited: Waited = lambda is_canary, wait_s: None,
    ) -> None:
        self.serving, self.canary = serving, canary
        self.joins = joins
        self.canary_ids: set[str] = set()
        self._serving_ids = set(known)
        self._waited = waited

    @property
    def stats(self) -> SourceStats:
        """The serving drafter's."""
        return self.serving.stats

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        """Drafts of both; None where neither answered. Rows of one that did not are marked."""
        ours = [self._is_canarys(row.request_id) for row in batch.rows]
        closed = [self._is_canarys(id_) for id_ in batch.closed]
        batches = [_part(batch, ours, closed, side) for side in (False, True)]
        sources = (self.serving, self.canary)
        pending = [one.begin(part) for one, part in zip(sources, batches, strict=True)]
        for id_ in batch.closed:
            self.canary_ids.discard(id_)
            self._serving_ids.discard(id_)
        drafts = self._collect(sources, pending)
        asked = [own for own, row in zip(ours, batch.rows, strict=True) if row.anchor is not None]
        return _joined(drafts, asked)

    def close(self) -> None:
        """Close the connection to the canary; the serving one goes on by itself."""
        self.canary.close()

    def _is_canarys(self, request_id: str) -> bool:
        if request_id in self.canary_ids:
            return True
        if request_id not in self._serving_ids:
            is_canarys = self.joins(request_id)
            (self.canary_ids if is_canarys else self._serving_ids).add(request_id)
            return is_canarys
        return False

    def _collect(
        self, sources: Sequence[RemoteDraftSource], pending: Sequence[Pending | None]
    ) -> list[DraftBatch | None]:
        """Whichever answers first is read first, so that neither waits for the other."""
        drafts: list[DraftBatch | None] = [None, None]
        left = [i for i, one in enumerate(pending) if one is not None]
        while left:
            i = _first_ready([sources[j] for j in left]) if len(left) > 1 else 0
            side = left.pop(i)
            waiting = pending[side]
            assert waiting is not None
            drafts[side] = sources[side].finish(waiting)
            took_s = time.monotonic() - waiting.started_s
            self._waited(bool(side), took_s if drafts[side] is not None else None)
        return drafts


def _first_ready(sources: Sequence[RemoteDraftSource]) -> int:
    """The place of the source that has something to read first, within their deadlines."""
    poller = zmq.Poller()
    sockets = [source.socket for source in sources]
    for socket in sockets:
        if socket is None:
            return sockets.index(None)
        poller.register(socket, zmq.POLLIN)
    ready = dict(poller.poll(int(1000 * min(source.deadline_s for source in sources))))
    return next((i for i, socket in enumerate(sockets) if socket in ready), 0)


def _part(
    batch: StepBatch, is_canarys: Sequence[bool], closed: Sequence[bool], side: bool
) -> StepBatch:
    """What of a step is the canary's, or the serving drafter's."""
    if not any(is_canarys) and not any(closed):
        empty = replace(batch, rows=(), features=batch.features[:0], closed=())
        return empty if side else batch
    rows_of = zip(is_canarys, batch.rows, rows_of_batch(batch), strict=True)
    chosen = [(row, features) for own, row, features in rows_of if own == side]
    features = [rows for _, rows in chosen]
    return replace(
        batch,
        rows=tuple(row for row, _ in chosen),
        features=torch.cat(features) if features else batch.features[:0],
        closed=tuple(id_ for id_, own in zip(batch.closed, closed, strict=True) if own == side),
    )


def _joined(drafts: Sequence[DraftBatch | None], asked: Sequence[bool]) -> DraftBatch | None:
    """Of serving and canary, in the order of the rows asked for; `asked`: is it the canary's."""
    serving, canary = drafts
    if canary is None and not any(asked):
        return serving
    known = [one for one in drafts if one is not None]
    if not known:
        return None
    shape = (len(asked), known[0].tokens.shape[1])
    is_canarys = torch.tensor(asked)
    tokens = torch.zeros(shape, dtype=known[0].tokens.dtype)
    confidences = torch.zeros(shape, dtype=known[0].confidences.dtype)
    answered = torch.zeros(len(asked), dtype=torch.bool)
    width = max((one.distribution.probs.shape[-1] for one in known if one.distribution), default=0)
    ids = torch.zeros((*shape, width), dtype=torch.long)
    probs = torch.zeros((*shape, width))
    for side, one in enumerate(drafts):
        if one is None:
            continue
        rows = is_canarys == bool(side)
        tokens[rows], confidences[rows], answered[rows] = one.tokens, one.confidences, True
        if width:
            ids[rows], probs[rows] = _padded(one, width)
    q = SparseDistribution(ids, probs) if width else None
    return DraftBatch(tokens, confidences, q, None if answered.all() else answered)


def _padded(drafts: DraftBatch, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A distribution of `width` entries, one-hot where the drafts come without one."""
    q = drafts.distribution
    if q is None:
        q = SparseDistribution(drafts.tokens[..., None], torch.ones(*drafts.tokens.shape, 1))
    missing = width - q.probs.shape[-1]
    return (
        torch.nn.functional.pad(q.token_ids, (0, missing)),
        torch.nn.functional.pad(q.probs, (0, missing)),
    )
