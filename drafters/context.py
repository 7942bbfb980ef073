"""Where drafter context lives: a fixed pool of blocks, and who uses which.

A block's K/V depend on nothing but the prefix up to its end, so a full block can be
registered under that prefix's hash and shared by any session that reaches it. Where context
lags behind its features, a block may lack its first positions and still count as full: the
features that belong there were never sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from drafters.interface import ContextLayout


class BlockPool:
    """Book-keeping of blocks: free, in use, or cached (registered and unused).

    Cached blocks are given away least recently released first.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.num_evictions = 0
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_users = [0] * num_blocks
        self._hash_of: dict[int, bytes] = {}
        self._first_offset: dict[int, int] = {}  # of registered blocks that lack their first
        self._block_of: dict[bytes, int] = {}
        self._cached: dict[int, None] = {}  # in order of release

    @property
    def num_cached(self) -> int:
        """Registered blocks that no session uses."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks that some session uses."""
        return self.num_blocks - len(self._free) - len(self._cached)

    def allocate(self) -> int | None:
        """A block for one new user, or None when every block is in use."""
        if self._free:
            block = self._free.pop()
        elif self._cached:
            block = next(iter(self._cached))
            del self._cached[block]
            del self._block_of[self._hash_of.pop(block)]
            self._first_offset.pop(block, None)
            self.num_evictions += 1
        else:
            return None
        self._num_users[block] = 1
        return block

    def release(self, block: int) -> None:
        """One user less; an unused block stays cached if it is registered."""
        assert self._num_users[block] > 0, f"block {block} released by nobody"
        self._num_users[block] -= 1
        if self._num_users[block]:
            return
        if block in self._hash_of:
            self._cached[block] = None
        else:
            self._free.append(block)

    def find(self, prefix_hash: bytes) -> int | None:
        """The block registered under a hash, with one user more."""
        block = self._block_of.get(prefix_hash)
        if block is not None:
            self._cached.pop(block, None)
            self._num_users[block] += 1
        return block

    def register(self, block: int, prefix_hash: bytes, first_offset: int = 0) -> None:
        """Name a block that is full from `first_offset` on.

        A block or hash that is already registered stays as it is.
        """
        if block not in self._hash_of and prefix_hash not in self._block_of:
            self._hash_of[block] = prefix_hash
            self._block_of[prefix_hash] = block
            if first_offset:
                self._first_offset[block] = first_offset

    def first_offset(self, block: int) -> int:
        """From where on a registered block is full."""
        return self._first_offset.get(block, 0)

    def is_registered(self, block: int) -> bool:
        """Whether others may come to read this block, so that it must not change."""
        return block in self._hash_of


class Write(NamedTuple):
    """New rows `source` .. `source + hi - lo` go to offsets `lo` .. `hi` of a block."""

    source: int
    lo: int
    hi: int


class ContextPool:
    """The K/V of all context blocks, each tensor [L, num_blocks * block_tokens, heads, dim]."""

    def __init__(
        self, layout: ContextLayout, *, num_blocks: int, block_tokens: int, device: torch.device
    ) -> None:
        self.block_tokens = block_tokens
        self.lag = layout.lag
        num_slots = num_blocks * block_tokens
        shape = (layout.num_layers, num_slots, layout.num_heads, layout.head_dim)
        self.k = torch.zeros(shape, dtype=layout.dtype, device=device)
        self.v = torch.zeros(shape, dtype=layout.dtype, device=device)

    def write(self, writes: Mapping[int, Sequence[Write]], k: Tensor, v: Tensor) -> None:
        """Put rows of `k` and `v` [L, N, heads, dim] into blocks, in one copy each.

        Values that are not finite are stored as zero: a masked NaN would still spoil the
        draft of whoever uses the block next.
        """
        ranges = [(block, write) for block, some in writes.items() for write in some]
        if not ranges:
            return
        source = np.concatenate([np.arange(w.source, w.source + w.hi - w.lo) for _, w in ranges])
        slots = np.concatenate(
            [np.arange(w.lo, w.hi) + block * self.block_tokens for block, w in ranges]
        )
        if len(source) != k.shape[1] or not np.array_equal(source, np.arange(len(source))):
            rows = torch.from_numpy(source).to(k.device)
            k, v = k.index_select(1, rows), v.index_select(1, rows)
        index = torch.from_numpy(slots).to(k.device)
        self.k.index_copy_(1, index, torch.nan_to_num(k, 0.0, 0.0, 0.0))
        self.v.index_copy_(1, index, torch.nan_to_num(v, 0.0, 0.0, 0.0))

    def copy_block(self, source: int, destination: int) -> None:
        """Duplicate one block's K/V."""
        n = self.block_tokens
        for stored in (self.k, self.v):
            stored[:, destination * n : (destination + 1) * n] = stored[
                :, source * n : (source + 1) * n
            ]

    def gather(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """K and V at `slots` int64 [R, C], each [L, R, C, heads, dim]."""
        rows, length = slots.shape
        shape = (self.k.shape[0], rows, length, *self.k.shape[2:])
        flat = slots.view(-1)
        return self.k.index_select(1, flat).view(shape), self.v.index_select(1, flat).view(shape)
