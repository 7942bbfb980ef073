"""The target's K/V of many sequences of different lengths, in one batch.

Every sequence has a row; position p lies in slot p of it. A step that verifies drafts writes
the slots from its anchor on and reads, by its mask, none behind its own position. So what a
rejected draft left there is never seen, and the next step writes over it: nothing is cropped.

All rows have the slots of the longest: `drafters.evaluation.seats` says how many rows fit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_FIRST_SLOTS = 256


def num_slots_for(num_tokens: int) -> int:
    """Slots of a row, once a sequence has so many positions."""
    num_slots = _FIRST_SLOTS
    while num_slots < num_tokens:
        num_slots *= 2
    return num_slots


class RaggedCache(Cache):  # type: ignore[misc]
    """A transformers cache for `num_rows` sequences; slots are added as positions need them.

    Call `point_at` before each forward pass: it says which rows and positions the pass is about.
    """

    def __init__(self, num_layers: int, num_rows: int) -> None:
        self._rows = _Rows(num_rows)
        super().__init__(layers=[_Layer(self._rows) for _ in range(num_layers)])

    def point_at(self, rows: Tensor, positions: Tensor) -> int:
        """The next pass computes `positions` int64 [N, q] of `rows` int64 [N].

        Returns how many slots of them it reads.
        """
        return self._rows.point_at(rows, positions)

    @property
    def bytes_per_token(self) -> int:
        """K and V of one position in all layers; 0 before the first pass."""
        slots = [s for layer in self.layers if layer.is_initialized for s in layer.slots]
        return sum(of.element_size() * of[0, 0].numel() for of in slots)

    def move_row(self, source: int, destination: int) -> None:
        """Row `source` becomes row `destination`, whose sequence is forgotten."""
        for layer in self.layers:
            layer.move_row(source, destination)


class _Rows:
    """What the present pass computes, shared by all layers."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.num_slots = _FIRST_SLOTS
        self.read_slots = 0
        self.rows = self.positions = torch.empty(0, dtype=torch.int64)
        self.are_first = True  # rows 0 .. N - 1: read in place

    def point_at(self, rows: Tensor, positions: Tensor) -> int:
        self.rows, self.positions = rows, positions
        self.are_first = rows.tolist() == list(range(len(rows)))
        self.read_slots = int(positions.max()) + 1
        self.num_slots = max(self.num_slots, num_slots_for(self.read_slots))
        return self.read_slots


class _Layer(CacheLayerMixin):  # type: ignore[misc]
    """K and V of one layer, [rows, slots, heads, head_dim] each."""

    def __init__(self, rows: _Rows) -> None:
        super().__init__()
        self._rows = rows

    @property
    def slots(self) -> tuple[Tensor, Tensor]:
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        shape = (self._rows.num_rows, self._rows.num_slots)
        self.keys, self.values = (
            states.new_zeros(*shape, states.shape[1], states.shape[3])
            for states in (key_states, value_states)
        )
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store [N, heads, q, head_dim] and return all slots that the pass reads."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        if self.keys.shape[1] < self._rows.num_slots:
            self.keys, self.values = map(self._grown, self.slots)
        return self._stored(self.keys, key_states), self._stored(self.values, value_states)

    def _stored(self, slots: Tensor, states: Tensor) -> Tensor:
        to = self._rows
        index = (to.rows[:, None] * slots.shape[1] + to.positions).flatten()
        slots.flatten(0, 1).index_copy_(0, index, states.transpose(1, 2).flatten(0, 1))
        own = slots[: len(to.rows)] if to.are_first else slots[to.rows]
        return own[:, : to.read_slots].transpose(1, 2)

    def _grown(self, slots: Tensor) -> Tensor:
        grown = slots.new_zeros(slots.shape[0], self._rows.num_slots, *slots.shape[2:])
        grown[:, : slots.shape[1]] = slots
        return grown

    def move_row(self, source: int, destination: int) -> None:
        if self.is_initialized:
            for slots in self.slots:
                slots[destination] = slots[source]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        del query_length
        return self._rows.read_slots, 0

    def get_seq_length(self) -> int:
        return self._rows.read_slots

    def get_max_length(self) -> int:
        return -1
