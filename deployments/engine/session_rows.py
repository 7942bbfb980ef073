"""What the drafter has been told of each request, and the next row that tells it more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deployments.engine.prefix_hash import extend_prefix_hashes
from drafters.messages import StepRow


@dataclass(slots=True)
class _Session:
    epoch: int
    fed: int  # the next position the drafter expects
    hashes: list[bytes] = field(default_factory=list)


class SessionRows:
    """A request's session opens with its first row, again under a new epoch when its computed
    position jumps (preemption, a prefix hit after it), and closes with it. `on_jump` is told.
    """

    def __init__(
        self,
        *,
        block_tokens: int,
        num_context_tokens: int,
        needs_tokens: bool,
        on_jump: Callable[[], None],
    ) -> None:
        self._on_jump = on_jump
        self._block_tokens = block_tokens
        self._num_context_tokens = num_context_tokens
        self._needs_tokens = needs_tokens
        self._sessions: dict[str, _Session] = {}
        self._num_epochs = 0
        self._closed: list[str] = []

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._sessions

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(self._sessions)

    def row(
        self,
        request_id: str,
        computed: int,
        num_valid: int,
        anchor: int | None,
        token_ids: NDArray[np.int32],
        temperature: float,
    ) -> StepRow:
        """The next `num_valid` positions of a request, its session opened where needed.

        `token_ids` [n] are the request's text; positions before the drafter's window are left out.
        """
        session = self._sessions.get(request_id)
        if session is None or session.fed != computed:
            if session is not None:
                self._on_jump()
            self._num_epochs += 1
            session = self._sessions[request_id] = _Session(epoch=self._num_epochs, fed=computed)
        end = session.fed = computed + num_valid
        first_block = len(session.hashes)
        named: tuple[bytes, ...] = ()
        if end // self._block_tokens > first_block:
            extend_prefix_hashes(session.hashes, token_ids, end, self._block_tokens)
            named = tuple(session.hashes[first_block:])
        start = max(computed, self._window_start(end))
        tokens = tuple(token_ids[start + 1 : end + 1].tolist()) if self._needs_tokens else ()
        return StepRow(
            request_id,
            session.epoch,
            start,
            end - start,
            anchor,
            first_block,
            named,
            temperature,
            tokens,
        )

    def close(self, request_id: str) -> None:
        """The request ended or was preempted; the drafter hears of it with the next batch."""
        if self._sessions.pop(request_id, None) is not None:
            self._closed.append(request_id)

    def take_closed(self) -> tuple[str, ...]:
        """Those closed since the last call."""
        closed = tuple(self._closed)
        self._closed.clear()
        return closed

    def _window_start(self, end: int) -> int:
        """First position the drafter would look at, down to a block's beginning."""
        start = end - self._num_context_tokens
        return start - start % self._block_tokens
