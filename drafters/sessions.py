"""Sessions: which context blocks each request has, at which positions.

Losing context costs speed, never correctness, so nothing here fails for lack of memory:
unused cached blocks go first, then the least recently used other session as a whole.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from drafters.context import BlockPool, ContextPool, Write
from drafters.messages import StepRow


class SessionKey(NamedTuple):
    """One request on one target."""

    target_id: str
    request_id: str


class Span(NamedTuple):
    """The offsets `lo` .. `hi` of a pool block that hold valid context."""

    block: int
    lo: int
    hi: int


class BlockTable:
    """Logical block -> span: a dict for the logic, a ring of rows for the gather.

    `rows` is int64 [ring, 4]: logical block, pool block, lo, hi; an empty row is zeros. The
    order of rows means nothing, as K carries its position already.
    """

    def __init__(self, ring: int) -> None:
        self.rows: NDArray[np.int64] = np.zeros((ring, 4), dtype=np.int64)
        self._spans: dict[int, Span] = {}

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[int]:
        return iter(self._spans)

    def get(self, logical: int) -> Span | None:
        return self._spans.get(logical)

    def put(self, logical: int, span: Span) -> None:
        self._spans[logical] = span
        self.rows[logical % len(self.rows)] = (logical, *span)

    def pop(self, logical: int) -> Span:
        self.rows[logical % len(self.rows)] = 0
        return self._spans.pop(logical)

    @property
    def num_tokens(self) -> int:
        """Valid positions; safe to ask for from any thread."""
        return sum(span.hi - span.lo for span in tuple(self._spans.values()))


@dataclass(slots=True)
class Session:
    """A request's context: positions `floor` .. `end`, with holes where blocks are missing.

    `end` is the anchor's position. Context that lags its features already reaches it.
    """

    key: SessionKey
    epoch: int
    end: int
    table: BlockTable
    floor: int = 0


@dataclass(slots=True)
class SessionTable:
    """All sessions, least recently used first, and the writes planned for this step.

    `window` is the number of context tokens a session keeps. Call `feed` for each row of a
    step, then `take_writes`.
    """

    pool: BlockPool
    context: ContextPool
    window: int
    sessions: OrderedDict[SessionKey, Session] = field(default_factory=OrderedDict)
    num_prefix_blocks_reused: int = 0
    num_sessions_evicted: int = 0
    num_gaps: int = 0
    _writes: dict[int, list[Write]] = field(default_factory=dict)

    @property
    def block_tokens(self) -> int:
        return self.context.block_tokens

    @property
    def lag(self) -> int:
        """Context of the feature row at i lies at position i + lag."""
        return self.context.lag

    def close(self, key: SessionKey) -> None:
        """Forget a session, if there is one; its registered blocks stay cached."""
        session = self.sessions.pop(key, None)
        if session is not None:
            # Last block first, so that the shared beginnings are evicted last.
            self._drop(session, sorted(session.table, reverse=True))

    def close_target(self, target_id: str) -> None:
        """Forget every session of a target."""
        for key in [key for key in self.sessions if key.target_id == target_id]:
            self.close(key)

    def touch(self, keys: Iterable[SessionKey]) -> None:
        """Mark sessions as in use, so that others are evicted before them."""
        for key in keys:
            if key in self.sessions:
                self.sessions.move_to_end(key)

    def feed(self, key: SessionKey, row: StepRow, source: int) -> Session:
        """Open or continue a row's session and plan the writes of its new rows.

        `source` is the index of its first kept row (the last `window` at most) among this
        step's rows. The session's end becomes the anchor's position.
        """
        session = self._open_or_continue(key, row)
        session.floor = max(0, row.end + self.lag - self.window)
        self._drop_below_floor(session)
        self._adopt_registered(session, row)
        self._plan_writes(session, row, source)
        self._register(session, row)
        session.end = row.end
        return session

    def take_writes(self) -> dict[int, list[Write]]:
        """The planned writes by pool block; the plan starts afresh."""
        writes, self._writes = self._writes, {}
        return writes

    def _open_or_continue(self, key: SessionKey, row: StepRow) -> Session:
        session = self.sessions.get(key)
        if session is not None and session.epoch != row.epoch:
            self.close(key)
            session = None
        if session is None:
            table = BlockTable(self.window // self.block_tokens + 2)
            session = self.sessions[key] = Session(key, row.epoch, row.start, table)
        elif row.start > session.end:
            self.num_gaps += 1
        elif row.start < session.end:
            self._truncate(session, row.start)
        self.sessions.move_to_end(key)
        return session

    def _truncate(self, session: Session, end: int) -> None:
        """Drop positions from `end` on; a registered block is copied before it is cut.

        With a lag, the context at `end` goes too: it depends on the token there, which may
        be another one now.
        """
        boundary, offset = divmod(end, self.block_tokens)
        first_gone = boundary + (offset > 0)
        self._drop(session, [b for b in session.table if b >= first_gone])
        span = session.table.get(boundary)
        if offset == 0 or span is None or span.hi <= offset:
            return
        block: int | None = span.block
        if self.pool.is_registered(span.block):
            block = self._allocate(session)
            if block is not None:
                self.context.copy_block(span.block, block)
                self.pool.release(span.block)
        if block is None or offset <= span.lo:
            self._drop(session, [boundary])
            return
        session.table.put(boundary, Span(block, span.lo, offset))

    def _drop_below_floor(self, session: Session) -> None:
        first_kept = session.floor // self.block_tokens
        self._drop(session, [b for b in session.table if b < first_kept])

    def _adopt_registered(self, session: Session, row: StepRow) -> None:
        """Use registered blocks for the full blocks that the row names."""
        for logical, prefix_hash in self._named_blocks(session, row):
            own = session.table.get(logical)
            if own is not None and self.pool.is_registered(own.block):
                continue
            block = self.pool.find(prefix_hash)
            if block is None:
                continue
            if own is not None:
                self._drop(session, [logical])
            first = self.pool.first_offset(block)
            session.table.put(logical, Span(block, first, self.block_tokens))
            self.num_prefix_blocks_reused += logical * self.block_tokens < row.start

    def _plan_writes(self, session: Session, row: StepRow, source: int) -> None:
        """Plan a write per touched block; adopted blocks hold their rows already."""
        size, end = self.block_tokens, row.end + self.lag
        first = max(row.start + self.lag, session.floor)
        position = first
        while position < end:
            logical, lo = divmod(position, size)
            hi = min(size, end - logical * size)
            self._plan_write(session, logical, Write(source + position - first, lo, hi))
            position = logical * size + hi

    def _plan_write(self, session: Session, logical: int, write: Write) -> None:
        span = session.table.get(logical)
        if span is not None and span.hi >= write.hi:
            return
        if span is None:
            block = self._allocate(session)
            if block is None:
                return
            span = Span(block, write.lo, write.lo)
        # One range per block: after a gap within a block the newer rows count.
        lo = span.lo if span.hi == write.lo else write.lo
        session.table.put(logical, Span(span.block, lo, write.hi))
        self._writes.setdefault(span.block, []).append(write)

    def _register(self, session: Session, row: StepRow) -> None:
        for logical, prefix_hash in self._named_blocks(session, row):
            span = session.table.get(logical)
            if span is not None and span.lo <= self.lag and span.hi == self.block_tokens:
                self.pool.register(span.block, prefix_hash, span.lo)

    def _named_blocks(self, session: Session, row: StepRow) -> list[tuple[int, bytes]]:
        """The blocks a row names, as far as they are in the window and before the anchor."""
        first = session.floor // self.block_tokens
        past = row.end // self.block_tokens
        named = enumerate(row.block_hashes, row.first_block)
        return [(b, prefix_hash) for b, prefix_hash in named if first <= b < past]

    def _allocate(self, keeper: Session) -> int | None:
        """A block for `keeper`, at the cost of other sessions; None when it holds them all."""
        while (block := self.pool.allocate()) is None:
            others = (s for s in self.sessions.values() if s is not keeper and len(s.table))
            victim = next(others, None)
            if victim is None:
                return None
            self.close(victim.key)
            self.num_sessions_evicted += 1
        self._writes.pop(block, None)  # its former user's
        return block

    def _drop(self, session: Session, blocks: Iterable[int]) -> None:
        for logical in blocks:
            self.pool.release(session.table.pop(logical).block)


class ContextIndex(NamedTuple):
    """Pool slots int64 [R, C] of sessions' contexts, and which of them count, bool [R, C]."""

    slots: NDArray[np.int64]
    mask: NDArray[np.bool_]


def index_contexts(sessions: Sequence[Session], block_tokens: int) -> ContextIndex:
    """Where the contexts of R sessions lie below their anchors, padded to the most blocks."""
    tables = np.stack([session.table.rows for session in sessions])  # [R, ring, 4]
    num_blocks = max(len(session.table) for session in sessions)
    occupied_first = np.argsort(tables[..., 3] == 0, axis=1, kind="stable")[:, :num_blocks]
    tables = np.take_along_axis(tables, occupied_first[..., None], axis=1)
    logical, block, lo, hi = (tables[..., i, None] for i in range(4))
    offsets = np.arange(block_tokens)
    floors = np.array([session.floor for session in sessions])[:, None, None]
    ends = np.array([session.end for session in sessions])[:, None, None]
    positions = logical * block_tokens + offsets
    mask = (offsets >= lo) & (offsets < hi) & (positions >= floors) & (positions < ends)
    shape = (len(sessions), num_blocks * block_tokens)
    return ContextIndex((block * block_tokens + offsets).reshape(shape), mask.reshape(shape))
