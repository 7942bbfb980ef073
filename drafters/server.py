"""The drafter's end of the wire: every pending step, one call into the drafter.

One thread owns the socket. Each pass takes everything that has arrived, so that the
steps of several targets are drafted together and a slow call is followed by a larger
one rather than by a queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import zmq
from zmq.utils.monitor import recv_monitor_message

from drafters.messages import DraftBatch, Drafter, DraftShape
from drafters.wire import (
    MAX_HEADER_BYTES,
    MAX_TENSOR_BYTES,
    Buffer,
    HelloMessage,
    StepMessage,
    WireError,
    decode,
    encode_drafts,
    encode_error,
    encode_welcome,
)

log = logging.getLogger(__name__)

_WAIT_MS = 100  # between looks at the stop flag and at idle targets
_MAX_DRAINED = 256  # messages taken in one pass
_MAX_PENDING = 64  # messages of one peer in one pass, whoever it says it is; more are dropped
_HIGH_WATER_MARK = 256
_HEARTBEAT_MS = 2000
_HANDSHAKE_MS = 5000  # a peer that connects and says nothing is cut off
_LOG_EVERY = 1000

# What a peer cannot find out by itself: told, where everything else is dropped in silence.
_TOLD_REASONS = frozenset({"version", "secret"})

_CONNECTION_EVENTS = {
    zmq.EVENT_ACCEPTED: "accepted",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "handshake_failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "handshake_failed",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "handshake_failed",
    zmq.EVENT_DISCONNECTED: "disconnected",
}


@runtime_checkable
class ForgetsTargets(Protocol):
    """A drafter that can drop all sessions of a target that has gone."""

    def close_target(self, target_id: str) -> None:
        """End every session of the target; unknown targets are fine."""


@dataclass(slots=True)
class ServerStats:
    """Counts since the server was made.

    `dropped` counts messages that did not parse, by `WireError.reason`, those that came
    again ("replay") and those beyond a peer's share of a pass ("flood"); `refused_hellos`
    targets of another shape; `rejected` batches the drafter refused with ValueError;
    `failed_steps` its other exceptions; `unsent` replies whose peer had gone or did not
    read; `connections` what peers did: accepted, handshake_failed, disconnected.
    `total_wait_s` is what all batches waited for their step to begin.
    """

    batches: int = 0
    drafts: int = 0
    merged_steps: int = 0
    retried_steps: int = 0
    hellos: int = 0
    refused_hellos: int = 0
    rejected: int = 0
    failed_steps: int = 0
    unsent: int = 0
    closed_targets: int = 0
    last_step_s: float = 0.0
    total_step_s: float = 0.0
    total_wait_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TracedStep:
    """A step that was drafted for in `step_s`, within the trace that its target named.

    It had `num_drafts` drafts and `num_rows` feature rows, and was one of `num_merged` steps.
    """

    trace: str
    num_drafts: int
    num_rows: int
    num_merged: int
    step_s: float


@dataclass(frozen=True, slots=True)
class _Pending:
    """A step that has arrived, and the peer that waits for it."""

    peer: bytes
    message: StepMessage


@dataclass(frozen=True, slots=True)
class _Heard:
    """The last message of a target: when, from which connection, and its number."""

    at_s: float
    peer: bytes
    seq: int


class DraftServer:
    """Serves one drafter to any number of targets.

    Binds when made: `port` and `address` are known from then on, and a taken port
    raises `zmq.ZMQError`. Run `serve_forever` in a thread of yours, or `start`.

    No peer can stop it: what does not parse is counted and dropped, a batch that the
    drafter refuses is refused alone, and a peer that does not read loses its replies.
    A merged step that raises ValueError is repeated batch by batch, so the drafter
    has to check its input before it changes anything.

    With a `shape`, hellos of targets of another one are refused. With `encrypted`, peers
    need `public_key` (ZeroMQ's CURVE), and what passes can be neither read nor replayed.
    `on_traced` is told of steps that name a trace, once they are answered. Of what one peer has
    sent meanwhile a round looks at `max_pending_bytes`, and drops the rest.
    """

    def __init__(
        self,
        drafter: Drafter,
        *,
        host: str,
        port: int = 0,
        secret: str,
        shape: DraftShape | None = None,
        encrypted: bool = False,
        on_traced: Callable[[TracedStep], None] = lambda step: None,
        idle_target_s: float = 60.0,
        max_pending_bytes: int = MAX_HEADER_BYTES + MAX_TENSOR_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._drafter = drafter
        self.secret = secret  # may be replaced while serving; read once per message
        self._shape = shape
        public_key, self._secret_key = zmq.curve_keypair() if encrypted else (b"", b"")
        self.public_key = public_key.decode() or None
        self._on_traced = on_traced
        self._idle_target_s = idle_target_s
        self._max_pending_bytes = max_pending_bytes
        self._clock = clock
        self._stats = ServerStats()
        self._heard: dict[str, _Heard] = {}
        self._stopping = threading.Event()
        self._serving = threading.Lock()
        self._thread: threading.Thread | None = None
        self._context = zmq.Context()
        try:
            self._socket = self._bind(host, port)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._monitor = self._socket.get_monitor_socket(sum(_CONNECTION_EVENTS))
        endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.port = int(endpoint.rsplit(":", 1)[1])
        self.address = f"tcp://{host}:{self.port}"

    @property
    def stats(self) -> ServerStats:
        """A snapshot; safe to take from any thread."""
        stats = self._stats
        return replace(stats, dropped=stats.dropped.copy(), connections=stats.connections.copy())

    @property
    def is_alive(self) -> bool:
        """Whether the thread that `start` made still serves."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Serve in a daemon thread."""
        self._thread = threading.Thread(target=self.serve_forever, name="drafts", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """End the loop and free the port; False where a step has not ended in time."""
        self._stopping.set()
        if not self._serving.acquire(timeout=timeout_s):
            return False
        try:
            self._socket.disable_monitor()
            self._context.destroy(linger=0)
        finally:
            self._serving.release()
        return True

    def serve_forever(self) -> None:
        """Serve until `stop`. Only a broken socket ends it otherwise, with `zmq.ZMQError`."""
        with self._serving:
            round_s = 0.0
            while not self._stopping.is_set():
                # Who is there already came during the last round: in its middle, on average.
                before_s = round_s / 2 if self._socket.poll(0) else 0.0
                pending = self._drain()
                began_s = time.perf_counter()
                for group in group_by_target(pending):
                    waited_s = before_s + time.perf_counter() - began_s
                    self._count(total_wait_s=len(group) * waited_s)
                    self._step(group)
                round_s = time.perf_counter() - began_s
                self._close_idle_targets()
                self._count_connections()

    def _bind(self, host: str, port: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = _HIGH_WATER_MARK
        socket.rcvtimeo = _WAIT_MS
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a lost reply is an error to count
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_TENSOR_BYTES)
        socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
        socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
        if self._secret_key:
            socket.curve_server = True
            socket.curve_secretkey = self._secret_key
        socket.bind(f"tcp://{host}:{port or '*'}")
        return socket

    def _drain(self) -> list[_Pending]:
        """Wait for a message, then take all that have arrived, in their order."""
        pending: list[_Pending] = []
        num_messages: Counter[bytes] = Counter()
        num_bytes: Counter[bytes] = Counter()
        flags = 0
        for _ in range(_MAX_DRAINED):
            try:
                frame, *frames = self._socket.recv_multipart(flags, copy=False)
            except zmq.Again:
                break
            flags = zmq.NOBLOCK
            peer = frame.bytes
            size = sum(len(part) for part in frames)
            self._count(bytes_in=size)
            num_bytes[peer] += size
            if num_bytes[peer] > self._max_pending_bytes:
                self._drop(WireError("flood", "a peer sends more than it is served"))
                continue
            message = self._parse(peer, [part.buffer for part in frames])
            if message is None:
                continue
            num_messages[peer] += 1
            if num_messages[peer] > _MAX_PENDING:
                self._drop(WireError("flood", "a peer sends faster than it is served"))
            elif isinstance(message, HelloMessage):
                self._greet(peer, message)
            elif self._is_next(peer, message):
                pending.append(_Pending(peer, message))
        return pending

    def _parse(self, peer: bytes, frames: list[Buffer]) -> StepMessage | HelloMessage | None:
        try:
            message = decode(frames, self.secret)
            if not isinstance(message, StepMessage | HelloMessage):
                raise WireError("kind", "only hellos and steps come this way")
        except WireError as error:
            self._drop(error)
            if error.reason in _TOLD_REASONS and error.seq is not None:
                self._send(peer, encode_error(str(error), seq=error.seq))
            return None
        return message

    def _greet(self, peer: bytes, hello: HelloMessage) -> None:
        self._count(hellos=1)
        if self._shape in (None, hello.shape):
            self._send(peer, encode_welcome(seq=hello.seq, secret=self.secret))
            return
        self._count(refused_hellos=1)
        text = f"target {hello.target_id!r} has {hello.shape}, this drafter {self._shape}"
        log.warning("hello refused: %s", text)
        self._send(peer, encode_error(text, seq=hello.seq))

    def _is_next(self, peer: bytes, message: StepMessage) -> bool:
        """Whether a step is new: its number rises within a connection."""
        target_id = message.batch.target_id
        last = self._heard.get(target_id)
        if last is not None and last.peer == peer and message.seq <= last.seq:
            self._drop(WireError("replay", f"step {message.seq} of {target_id!r} came again"))
            return False
        self._heard[target_id] = _Heard(self._clock(), peer, message.seq)
        return True

    def _step(self, group: list[_Pending]) -> None:
        """One call for the whole group; where one of it is bad, one call for each."""
        started_s = time.perf_counter()
        try:
            results = self._drafter.step([pending.message.batch for pending in group])
            if len(results) != len(group):
                raise RuntimeError(f"{len(results)} results for {len(group)} batches")
        except ValueError as error:
            self._refuse_or_retry(group, error)
            return
        except Exception as error:
            self._fail(group, error)
            return
        step_s = time.perf_counter() - started_s
        for pending, drafts in zip(group, results, strict=True):
            self._reply(pending, drafts)
        for pending in group:
            batch = pending.message.batch
            if batch.trace:
                rows = len(batch.features)
                self._on_traced(TracedStep(batch.trace, batch.num_drafts, rows, len(group), step_s))
        self._count(
            merged_steps=1,
            batches=len(group),
            drafts=sum(pending.message.batch.num_drafts for pending in group),
            total_step_s=step_s,
        )
        self._stats.last_step_s = step_s

    def _refuse_or_retry(self, group: list[_Pending], error: ValueError) -> None:
        if len(group) > 1:
            self._count(retried_steps=1)
            for pending in group:
                self._step([pending])
            return
        if self._stats.rejected % _LOG_EVERY == 0:
            log.warning("step of %r refused: %s", group[0].message.batch.target_id, error)
        self._count(rejected=1)
        self._reply_error(group, error)

    def _fail(self, group: list[_Pending], error: Exception) -> None:
        if self._stats.failed_steps % _LOG_EVERY == 0:
            log.exception("the drafter failed on a step of %d targets", len(group))
        self._count(failed_steps=1)
        self._reply_error(group, error)

    def _reply(self, pending: _Pending, drafts: DraftBatch) -> None:
        if not pending.message.want_reply:
            return
        try:
            frames = encode_drafts(drafts, seq=pending.message.seq, secret=self.secret)
        except Exception as error:
            self._fail([pending], error)
            return
        self._send(pending.peer, frames)

    def _reply_error(self, group: Iterable[_Pending], error: Exception) -> None:
        for pending in group:
            if pending.message.want_reply:
                text = f"{type(error).__name__}: {error}"
                self._send(pending.peer, encode_error(text, seq=pending.message.seq))

    def _send(self, peer: bytes, frames: list[Buffer]) -> None:
        try:
            self._socket.send_multipart([peer, *frames], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            self._count(unsent=1)
            return
        self._count(bytes_out=sum(len(frame) for frame in frames))

    def _close_idle_targets(self) -> None:
        now_s = self._clock()
        idle = [id_ for id_, h in self._heard.items() if now_s - h.at_s >= self._idle_target_s]
        for target_id in idle:
            del self._heard[target_id]
            self._count(closed_targets=1)
            if isinstance(self._drafter, ForgetsTargets):
                try:
                    self._drafter.close_target(target_id)
                except Exception:
                    log.exception("closing target %r failed", target_id)

    def _count_connections(self) -> None:
        connections = self._stats.connections
        while self._monitor.poll(0):
            event = zmq.Event(recv_monitor_message(self._monitor)["event"])
            if event in _CONNECTION_EVENTS:
                kind = _CONNECTION_EVENTS[event]
                connections[kind] = connections.get(kind, 0) + 1

    def _drop(self, error: WireError) -> None:
        dropped = self._stats.dropped
        if error.reason not in dropped:
            log.warning("message dropped, further ones only counted: %s", error)
        dropped[error.reason] = dropped.get(error.reason, 0) + 1

    def _count(self, **increments: float) -> None:
        for name, value in increments.items():
            setattr(self._stats, name, getattr(self._stats, name) + value)


def group_by_target(pending: Iterable[_Pending]) -> list[list[_Pending]]:
    """The n-th step of every target goes to the n-th group: order kept, none twice in one."""
    groups: list[list[_Pending]] = []
    seen: Counter[str] = Counter()
    for step in pending:
        nth = seen[step.message.batch.target_id]
        seen[step.message.batch.target_id] += 1
        if nth == len(groups):
            groups.append([])
        groups[nth].append(step)
    return groups
