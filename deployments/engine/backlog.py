"""Features of steps that want no drafts, held back and sent as few large batches.

While drafting pauses, features keep flowing so that it can resume warm, but nobody waits
for them: a hundred rows cost the drafter hardly more than one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from drafters.messages import StepBatch, StepRow

MAX_ROWS = 1024


class FeatureBacklog:
    """Merges consecutive steps: each request becomes one longer row."""

    def __init__(self, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._held: list[StepBatch] = []
        self._ends: dict[str, tuple[int, int]] = {}  # request -> (epoch, end) of what is held
        self.num_rows = 0  # held back
        self._closed_before: list[str] = []
        self._closed_after: list[str] = []

    def take(self, batch: StepBatch, *, hold: bool) -> list[StepBatch]:
        """What to send now, in order; nothing while this step can be held back too.

        A request that closed with rows held back is closed behind them, so that they still
        become context for whoever continues its text.
        """
        ready: list[StepBatch] = []
        if self._held and not (hold and self._continues(batch)):
            ready.append(self._release())
        if not hold:
            closed = (*self._closed_after, *batch.closed)
            self._closed_after.clear()
            return [*ready, replace(batch, closed=closed)]
        self._keep(batch)
        if self.num_rows >= self._max_rows:
            ready.append(self._release())
        return ready

    def _continues(self, batch: StepBatch) -> bool:
        """Whether every row goes on where the held ones of its request end."""
        return all(
            self._ends.get(row.request_id, (row.epoch, row.start)) == (row.epoch, row.start)
            for row in batch.rows
        )

    def _keep(self, batch: StepBatch) -> None:
        if not self._held:  # closed behind an earlier release, hence before these rows
            self._closed_before += self._closed_after
            self._closed_after.clear()
        for request_id in batch.closed:
            is_held = request_id in self._ends
            (self._closed_after if is_held else self._closed_before).append(request_id)
        self._held.append(batch)
        for row in batch.rows:
            self._ends[row.request_id] = (row.epoch, row.end)
            self.num_rows += row.num_rows

    def _release(self) -> StepBatch:
        merged = _merge(self._held, tuple(self._closed_before))
        self._held.clear()
        self._ends.clear()
        self._closed_before.clear()
        self.num_rows = 0
        return merged


def _merge(batches: list[StepBatch], closed: tuple[str, ...]) -> StepBatch:
    """Consecutive steps of one target as one, without anchors."""
    if len(batches) == 1:
        return replace(batches[0], closed=closed)
    rows: dict[str, list[StepRow]] = {}
    sources: dict[str, list[range]] = {}
    first = 0
    for batch in batches:
        for row in batch.rows:
            rows.setdefault(row.request_id, []).append(row)
            sources.setdefault(row.request_id, []).append(range(first, first + row.num_rows))
            first += row.num_rows
    order = [i for some in sources.values() for part in some for i in part]
    features = torch.cat([batch.features for batch in batches])
    return StepBatch(
        batches[0].target_id,
        tuple(_join(some) for some in rows.values()),
        features.index_select(0, torch.tensor(order, dtype=torch.long, device=features.device)),
        closed,
    )


def _join(rows: Iterable[StepRow]) -> StepRow:
    first, *others = rows
    return first._replace(
        num_rows=first.num_rows + sum(row.num_rows for row in others),
        anchor=None,
        block_hashes=sum((row.block_hashes for row in others), first.block_hashes),
        tokens=sum((row.tokens for row in others), first.tokens),
    )
