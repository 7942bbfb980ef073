"""Where a target's drafts come from: a drafter in this process, or one over the wire."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
import zmq

from drafters.messages import DraftBatch, Drafter, DraftShape, StepBatch
from drafters.wire import (
    MAX_ROWS,
    DraftsMessage,
    ErrorMessage,
    HelloMessage,
    Message,
    WelcomeMessage,
    WireError,
    decode,
    encode_hello,
    encode_step,
)

log = logging.getLogger(__name__)

_FIRST_COOL_OFF_S = 0.25
_MAX_COOL_OFF_S = 5.0
_REFUSED_FOR_S = 5.0  # then the drafter is asked again: what did not fit may have changed there
_SEND_HIGH_WATER_MARK = 32  # messages kept for a drafter that does not read
_RECEIVE_HIGH_WATER_MARK = 256
_RECONNECT_MS = 50
_MAX_RECONNECT_MS = 1000
_HEARTBEAT_MS = 2000
_MAX_REPLY_BYTES = 16 << 20  # of a frame
_LOG_EVERY = 1000


@dataclass(slots=True)
class SourceStats:
    """Counts since the source was made.

    A request is a step that asked for drafts; it ends as a reply, a timeout, or in one of the
    failures: the drafter `refused` it, what came was `spoiled` (it does not parse, or is no
    reply to what was asked), it was `unsent` as nothing could be sent, or an error of ours.
    `skipped` steps wanted drafts during a cool-off and did not ask.
    """

    requests: int = 0
    replies: int = 0
    timeouts: int = 0
    late_replies: int = 0
    refused: int = 0
    spoiled: int = 0
    errors: int = 0
    unsent: int = 0
    skipped: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    last_wait_s: float = 0.0
    total_wait_s: float = 0.0

    @property
    def failures(self) -> int:
        """What went wrong, but for time and a full socket."""
        return self.refused + self.spoiled + self.errors

    def waited(self, wait_s: float) -> None:
        """A request ended after `wait_s`."""
        self.last_wait_s = wait_s
        self.total_wait_s += wait_s


class Pending(NamedTuple):
    """A step that was asked to be drafted for, `sent` or not, at `started_s` of the clock."""

    seq: int
    num_drafts: int
    started_s: float
    sent: bool


class ColocatedDraftSource:
    """The drafter of this process. Its exceptions are counted and mean no drafts."""

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self.stats = SourceStats()

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        """Drafts for a step; None where none are wanted or the drafter raised."""
        if not batch.rows and not batch.closed:
            return None
        asked = batch.num_drafts > 0
        started_s = time.perf_counter()
        try:
            (drafts,) = self._drafter.step([batch])
        except Exception:
            if self.stats.errors % _LOG_EVERY == 0:
                log.exception("the drafter failed on a step")
            self.stats.errors += 1
            self.stats.requests += asked
            return None
        if not asked:
            return None
        self.stats.requests += 1
        self.stats.replies += 1
        self.stats.waited(time.perf_counter() - started_s)
        return drafts

    def close(self) -> None:
        """Nothing to release: the drafter belongs to whoever made it."""


class CoolOff:
    """When to stop asking a drafter that does not answer, and when to ask again.

    After `max_misses` misses in a row nothing is asked for 0.25 s, then one probe
    decides: a reply in time ends it, a miss doubles the pause, up to 5 s.
    """

    def __init__(self, max_misses: int) -> None:
        self._max_misses = max_misses
        self._misses = 0
        self._pause_s = _FIRST_COOL_OFF_S
        self._resume_s = -math.inf

    def allows(self, now_s: float) -> bool:
        """Whether to ask now."""
        return now_s >= self._resume_s

    def missed(self, now_s: float) -> None:
        """A request got no drafts in time."""
        self._misses += 1
        if self._misses >= self._max_misses:
            self._resume_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, _MAX_COOL_OFF_S)

    def answered(self) -> None:
        """A request got its drafts in time."""
        self._misses = 0
        self._pause_s = _FIRST_COOL_OFF_S


class RemoteDraftSource:
    """A drafter replica over the wire, at most one deadline away. For one thread.

    Nothing it does blocks longer than `deadline_s`: sending never waits (a full queue
    drops the message and counts it), a late reply is dropped by its `seq`, and after
    `max_misses` misses in a row only features are sent until a probe is answered.
    Features flow in every case, so that a drafter that comes back has context.

    Rows that want no draft travel behind the request, so that drafting does not wait
    for them. Names in `closed` that could not be sent travel with the next message.

    A drafter that refuses the hello, as its `shape` is another, is not asked again until
    the address changes.
    """

    def __init__(
        self,
        *,
        deadline_s: float,
        secret: str,
        target_id: str = "",
        shape: DraftShape | None = None,
        address: str | None = None,
        max_misses: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stats = SourceStats()
        self.address: str | None = None
        self.is_refused = False  # by the drafter, as something about us does not fit ...
        self._refused_until_s = 0.0  # ... for a while
        self._secret = secret
        self._target_id = target_id
        self._shape = shape
        self._server_key: str | None = None
        self._hello_seq = 0
        self._max_misses = max_misses
        self._clock = clock
        self._seq = 0
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] | None = None
        self._cool_off = CoolOff(max_misses)
        self._unsent_closed: tuple[str, ...] = ()
        self.set_deadline(deadline_s)
        self.set_address(address)

    def set_deadline(self, deadline_s: float) -> None:
        """How long `draft` may take from now on."""
        if not deadline_s > 0:
            raise ValueError(f"deadline_s is {deadline_s}; it has to be above 0")
        self._deadline_s = deadline_s

    def set_address(
        self, address: str | None, secret: str | None = None, server_key: str | None = None
    ) -> None:
        """Turn to another drafter, or to none; the same address, key and secret change nothing.

        `secret`, where given, is presented from then on; with a `server_key` the connection
        is encrypted (CURVE) for that drafter alone. What is queued for the old one is lost.
        Raises `zmq.ZMQError` for something that is no address, and then there is no drafter.
        """
        is_known = secret is None or secret == self._secret
        self._secret = self._secret if secret is None else secret
        if is_known and (address, server_key) == (self.address, self._server_key):
            return
        if self._socket is not None:
            self._socket.close(linger=0)
        self._socket, self.address, self._server_key = None, None, server_key
        self._cool_off = CoolOff(self._max_misses)
        self._unsent_closed = ()
        self.is_refused = False
        if address is not None:
            self._socket = self._connect(address)
            self.address = address
            self._send_hello()

    def close(self) -> None:
        """Close the socket; `draft` answers None from then on."""
        self._socket, self.address = None, None
        self._context.destroy(linger=0)

    @property
    def socket(self) -> zmq.Socket[bytes] | None:
        """To wait on; None without a drafter."""
        return self._socket

    @property
    def deadline_s(self) -> float:
        return self._deadline_s

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        """Send a step and wait for its drafts, at most until the deadline.

        None where no drafts are wanted or none came in time; never an exception for
        what the drafter or the network does.
        """
        pending = self.begin(batch)
        return None if pending is None else self.finish(pending)

    def begin(self, batch: StepBatch) -> Pending | None:
        """Send a step; what comes back is to be handed to `finish`, None where nothing will."""
        started_s = self._clock()
        closed = (self._unsent_closed + batch.closed)[-MAX_ROWS:]
        if self._socket is None or not (batch.rows or closed):
            return None
        if self.is_refused:
            if started_s < self._refused_until_s:
                return None
            self.is_refused = False
            self._send_hello()
        batch = replace(batch, closed=closed)
        wanted = batch.num_drafts > 0
        if not wanted or not self._cool_off.allows(started_s):
            self.stats.skipped += wanted
            self._send(without_anchors(batch), want_reply=False)
            return None
        request, context = split_by_anchor(batch)
        self.stats.requests += 1
        sent = self._send(request, want_reply=True)
        seq = self._seq
        if sent and context is not None:
            self._send(context, want_reply=False)
        return Pending(seq, request.num_drafts, started_s, sent)

    def finish(self, pending: Pending) -> DraftBatch | None:
        """Wait for the drafts of a step that was sent, at most until its deadline."""
        seq, num_drafts, started_s, sent = pending
        drafts = self._wait_for(seq, num_drafts, started_s) if sent else None
        self._record(drafts, started_s)
        return drafts

    def _record(self, drafts: DraftBatch | None, started_s: float) -> None:
        now_s = self._clock()
        self.stats.waited(now_s - started_s)
        if drafts is None:
            self._cool_off.missed(now_s)
        else:
            self._cool_off.answered()

    def _connect(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.DEALER)
        socket.linger = 0
        socket.sndhwm = _SEND_HIGH_WATER_MARK
        socket.rcvhwm = _RECEIVE_HIGH_WATER_MARK
        socket.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, _MAX_RECONNECT_MS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.MAXMSGSIZE, _MAX_REPLY_BYTES)
        try:
            if self._server_key is not None:
                socket.curve_serverkey = self._server_key.encode()
                socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
            socket.connect(address)
        except zmq.ZMQError:
            socket.close(linger=0)
            raise
        return socket

    def _send_hello(self) -> None:
        if self._socket is None or self._shape is None:
            return
        self._seq += 1
        self._hello_seq = self._seq
        hello = HelloMessage(self._seq, self._target_id, self._shape)
        with suppress(zmq.Again):  # what cannot be sent now is not read either
            self._socket.send_multipart(encode_hello(hello, secret=self._secret), zmq.NOBLOCK)

    def _send(self, batch: StepBatch, *, want_reply: bool) -> bool:
        """Hand a step to the socket by copy; False where it cannot be sent now."""
        assert self._socket is not None
        self._seq += 1
        try:
            frames = encode_step(batch, seq=self._seq, want_reply=want_reply, secret=self._secret)
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            self._unsent_closed = batch.closed
            self.stats.unsent += 1
            return False
        except WireError as error:
            log.warning("step not sent: %s", error)
            self._unsent_closed = ()
            self.stats.errors += 1
            return False
        self._unsent_closed = ()
        self.stats.bytes_sent += sum(len(frame) for frame in frames)
        return True

    def _wait_for(self, seq: int, num_drafts: int, started_s: float) -> DraftBatch | None:
        """The reply to `seq`; older replies and what does not parse are counted and dropped."""
        left_s = self._deadline_s
        while left_s > 0:
            left_s = self._deadline_s - (self._clock() - started_s)
            try:
                message = self._receive(left_s)
            except zmq.Again:
                break
            except WireError as error:
                self._count_spoiled(str(error))
                continue
            if isinstance(message, WelcomeMessage):
                continue
            if isinstance(message, ErrorMessage):
                self.stats.refused += 1
                self._tell(message.text, self.stats.refused)
                if message.seq == self._hello_seq:
                    self.is_refused = True
                    self._refused_until_s = self._clock() + _REFUSED_FOR_S
                    return None
            elif not isinstance(message, DraftsMessage):
                self._count_spoiled("a step came back")
            elif message.seq != seq:
                self.stats.late_replies += 1
                continue
            elif message.drafts.tokens.shape[0] != num_drafts:
                self._count_spoiled(f"{message.drafts.tokens.shape[0]} drafts for {num_drafts}")
            else:
                self.stats.replies += 1
                return message.drafts
            if message.seq == seq:
                return None
        self.stats.timeouts += 1
        return None

    def _receive(self, left_s: float) -> Message:
        """The next message; looks once where no time is left. Raises `zmq.Again`, `WireError`."""
        assert self._socket is not None
        self._socket.rcvtimeo = max(0, math.ceil(left_s * 1000))
        frames = self._socket.recv_multipart(copy=False)
        buffers = [frame.buffer for frame in frames]
        self.stats.bytes_received += sum(len(buffer) for buffer in buffers)
        return decode(buffers, self._secret)

    def _count_spoiled(self, text: str) -> None:
        self.stats.spoiled += 1
        self._tell(text, self.stats.spoiled)

    def _tell(self, text: str, count: int) -> None:
        """Log the first of its kind, and one now and then."""
        if count % _LOG_EVERY == 1:
            log.warning("drafter at %s: %r", self.address, text)


def split_by_anchor(batch: StepBatch) -> tuple[StepBatch, StepBatch | None]:
    """The rows that want drafts, with `closed`, and the others; None where there are none."""
    if batch.num_drafts == len(batch.rows):
        return batch, None
    parts = list(zip(batch.rows, rows_of_batch(batch), strict=True))
    wanting = [(row, part) for row, part in parts if row.anchor is not None]
    others = [(row, part) for row, part in parts if row.anchor is None]
    request = replace(
        batch,
        rows=tuple(row for row, _ in wanting),
        features=torch.cat([part for _, part in wanting]),
    )
    context = replace(
        batch,
        rows=tuple(row for row, _ in others),
        features=torch.cat([part for _, part in others]),
        closed=(),
        trace="",
    )
    return request, context


def without_anchors(batch: StepBatch) -> StepBatch:
    """The same step as features only: nothing is drafted from it."""
    return replace(batch, rows=tuple(row._replace(anchor=None) for row in batch.rows), trace="")


def rows_of_batch(batch: StepBatch) -> list[torch.Tensor]:
    """The features of every row."""
    ends = accumulate(row.num_rows for row in batch.rows)
    return [
        batch.features[end - row.num_rows : end] for row, end in zip(batch.rows, ends, strict=True)
    ]
