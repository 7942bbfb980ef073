"""Steps in a row in which the same requests decode a token each and nobody drafts.

Under load most steps are of this kind. They cost the target as little as can be: features
are copied once per step, and what the drafter is told is made up once per run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray


class RunBuffer:
    """Room for the features of a run's steps, allocated once: at most `max_rows` rows."""

    def __init__(self, max_rows: int, dtype: torch.dtype) -> None:
        self.max_rows = max_rows
        self._dtype = dtype
        self._rows = torch.empty(0, 0, dtype=dtype)  # [max_rows, feature_size] once known

    def put(self, first_row: int, num_rows: int, layers: Sequence[torch.Tensor]) -> None:
        """Copy the first `num_rows` of all layers, side by side, to `first_row` and on."""
        widths = [layer.shape[1] for layer in layers]
        if not self._rows.shape[0]:
            device = layers[0].device if layers else None
            self._rows = torch.empty(self.max_rows, sum(widths), dtype=self._dtype, device=device)
        rows = self._rows[first_row : first_row + num_rows]
        for layer, part in zip(layers, torch.split(rows, widths, dim=1), strict=True):
            part.copy_(layer[:num_rows])

    def steps(self, num_steps: int, num_rows: int) -> torch.Tensor:
        """The first steps of `num_rows` each, `[num_steps, num_rows, feature_size]`, live."""
        return self._rows[: num_steps * num_rows].view(num_steps, num_rows, self._rows.shape[1])


class PlainRun:
    """`request_ids` decode from the positions `start`, int32 [R].

    `kept` are the rows whose features matter, with their requests; `token_ids` the engine's
    own rows, live.
    """

    def __init__(
        self,
        request_ids: Sequence[str],
        start: NDArray[np.int32],
        kept: Sequence[tuple[int, str]],
        token_ids: NDArray[np.int32],
        buffer: RunBuffer,
    ) -> None:
        self.request_ids = list(request_ids)
        self.start = start
        self.kept = list(kept)
        self.token_ids = token_ids
        self.num_steps = 0
        self._members = set(request_ids)
        self._first_position = int(start[0])
        self._buffer = buffer

    def goes_on(
        self, num_scheduled: Mapping[str, int], drafts: Mapping[str, Sequence[int]]
    ) -> bool:
        """Whether a step of these tokens computes one token of every request, no draft."""
        return (
            not drafts
            and num_scheduled.keys() == self._members
            and sum(num_scheduled.values()) == len(self._members)
        )

    def is_next(self, request_ids: Sequence[str], num_computed: NDArray[np.int32]) -> bool:
        """Whether a step that `goes_on` has this run's rows where they were.

        Positions move together, so the first stands for all.
        """
        here = int(num_computed[0])
        return request_ids == self.request_ids and here == self._first_position + self.num_steps

    def append(self, layers: Sequence[torch.Tensor]) -> None:
        """A further step; its features are copied."""
        if self.kept:
            num_rows = len(self.request_ids)
            self._buffer.put(self.num_steps * num_rows, num_rows, layers)
        self.num_steps += 1

    def is_full(self, max_steps: int) -> bool:
        """Whether no further step fits, in the buffer or in `max_steps`."""
        rows = (self.num_steps + 1) * len(self.request_ids)
        return self.num_steps >= max_steps or rows > self._buffer.max_rows

    def rest(self) -> PlainRun:
        """The run that goes on behind this one's steps."""
        start = self.start + self.num_steps
        return PlainRun(self.request_ids, start, self.kept, self.token_ids, self._buffer)

    def take_features(self) -> torch.Tensor:
        """The features of the `kept` requests, each with all its steps, one after the other."""
        steps = self._buffer.steps(self.num_steps, len(self.request_ids))
        kept = torch.tensor([i for i, _ in self.kept], device=steps.device)
        return steps.transpose(0, 1).index_select(0, kept).flatten(0, 1)
