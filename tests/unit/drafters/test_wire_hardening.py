"""What peers can do to a draft server, by accident or on purpose: counted, and no more."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
import zmq

from drafters.messages import DraftBatch, DraftShape
from drafters.server import DraftServer
from drafters.sources import RemoteDraftSource
from tests.unit.drafters.test_draft_wire import (
    GAMMA,
    SECRET,
    WIDTH,
    Counting,
    batch,
    dealer,
    frames_of,
    wait_until,
)

SHAPE = DraftShape(WIDTH, GAMMA)


@pytest.fixture
def drafter() -> Counting:
    return Counting()


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def server(request: pytest.FixtureRequest, drafter: Counting) -> Iterator[DraftServer]:
    made = DraftServer(
        drafter, host="127.0.0.1", secret=SECRET, shape=SHAPE, encrypted=request.param
    )
    made.start()
    yield made
    assert made.stop()


def source_for(server: DraftServer, shape: DraftShape = SHAPE, **changes: object):
    made = RemoteDraftSource(
        deadline_s=2,
        secret=SECRET,
        target_id="t",
        shape=shape,
        clock=changes.get("clock", time.monotonic),
    )
    made.set_address(server.address, server_key=changes.get("server_key", server.public_key))
    return made


def test_a_target_of_the_same_shape_is_welcome(server):
    source = source_for(server)
    assert source.draft(batch(10)).tokens.tolist() == [[11, 12, 13]]
    assert (server.stats.hellos, server.stats.refused_hellos) == (1, 0)
    assert source.stats.failures == 0
    source.close()


@pytest.mark.parametrize(
    "shape",
    [
        DraftShape(WIDTH + 1, GAMMA),
        DraftShape(WIDTH, GAMMA - 1),
        DraftShape(WIDTH, GAMMA, needs_tokens=True),
    ],
)
def test_a_target_of_another_shape_is_told_and_asks_no_more_for_a_while(server, shape):
    now_s = 0.0
    source = source_for(server, shape, clock=lambda: now_s)
    assert source.draft(batch(10)) is None
    assert source.is_refused
    asked = source.stats.requests
    now_s = 4.9
    assert source.draft(batch(10)) is None
    assert source.stats.requests == asked
    assert server.stats.refused_hellos == 1
    now_s = 5.1
    assert source.draft(batch(10)) is None
    assert source.is_refused
    assert server.stats.refused_hellos == 2
    source.close()


def test_a_target_that_was_there_before_the_secret_gets_its_drafts_in_the_end(server):
    now_s = 0.0
    server.secret = "of the controller before"
    source = source_for(server, clock=lambda: now_s)
    assert source.draft(batch(10)) is None
    assert source.is_refused
    server.secret = SECRET
    assert source.draft(batch(10)) is None
    now_s = 5.1
    assert source.draft(batch(10)) is not None
    assert not source.is_refused
    source.close()


def test_a_refused_target_may_turn_to_another_drafter(server):
    source = source_for(server, DraftShape(WIDTH, GAMMA + 1))
    assert source.draft(batch(10)) is None
    other = DraftServer(Counting(), host="127.0.0.1", secret=SECRET)
    other.start()
    source.set_address(other.address)
    assert source.draft(batch(10)) is not None
    source.close()
    other.stop()


def test_a_target_with_an_old_secret_is_welcome_once_it_has_the_new_one(server):
    source = RemoteDraftSource(deadline_s=2, secret="old", target_id="t", shape=SHAPE)
    source.set_address(server.address, server_key=server.public_key)
    assert source.draft(batch(10)) is None
    assert source.is_refused
    source.set_address(server.address, SECRET, server.public_key)
    assert source.draft(batch(10)) is not None
    source.close()


def test_without_the_key_nothing_passes_an_encrypted_server(drafter):
    server = DraftServer(drafter, host="127.0.0.1", secret=SECRET, encrypted=True)
    server.start()
    wrong_key = zmq.curve_keypair()[0].decode()
    for key in (None, wrong_key):
        source = source_for(server, server_key=key)
        source.set_deadline(0.2)
        assert source.draft(batch(10)) is None
        source.close()
    wait_until(lambda: server.stats.connections.get("handshake_failed", 0) >= 2)
    assert drafter.calls == []
    assert server.stop()


def test_an_encrypted_step_cannot_be_read_on_the_way(drafter):
    seen = bytearray()
    server = DraftServer(drafter, host="127.0.0.1", secret="not-to-be-seen", encrypted=True)
    server.start()
    with listening_between(server.port, seen) as port:
        source = RemoteDraftSource(deadline_s=2, secret="not-to-be-seen")
        source.set_address(f"tcp://127.0.0.1:{port}", server_key=server.public_key)
        assert source.draft(batch(10)) is not None
        source.close()
    assert len(seen) > 100
    assert b"not-to-be-seen" not in seen
    assert server.stop()


class listening_between:  # noqa: N801 - reads as a statement
    """A TCP relay that keeps what passes."""

    def __init__(self, port: int, seen: bytearray) -> None:
        self._target, self._seen = port, seen
        self.is_cut = threading.Event()  # both connections stay open, and nothing passes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._relay, daemon=True)

    def __enter__(self) -> int:
        self._closed = threading.Event()
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self._closed.set()

    def _relay(self) -> None:
        one, _ = self._listener.accept()
        two = socket.create_connection(("127.0.0.1", self._target))
        with one, two:
            while True:
                ready, _, _ = select.select([one, two], [], [], 5)
                if self.is_cut.is_set():
                    self._closed.wait(30)
                    return
                for end in ready:
                    data = end.recv(65536)
                    if not data:
                        return
                    self._seen += data
                    (two if end is one else one).sendall(data)


def test_a_step_that_comes_again_is_dropped(drafter):
    server = DraftServer(drafter, host="127.0.0.1", secret=SECRET)
    server.start()
    peer = dealer(server)
    for seq in (5, 5, 4, 6):
        peer.send_multipart(frames_of(batch(10), secret=SECRET, seq=seq))
    wait_until(lambda: len(drafter.calls) == 2)
    assert server.stats.dropped == {"replay": 2}
    again = dealer(server)  # a new connection counts from its own beginning
    again.send_multipart(frames_of(batch(10), secret=SECRET, seq=1))
    wait_until(lambda: len(drafter.calls) == 3)
    for end in (peer, again):
        end.close(linger=0)
    assert server.stop()


@pytest.mark.parametrize("names", [1, 5])
def test_a_peer_that_floods_loses_its_own_steps_and_no_others(drafter, names):
    """Also where it speaks for several targets."""
    server = DraftServer(drafter, host="127.0.0.1", secret=SECRET)
    server.start()
    drafter.delay_s = 0.3
    loud, quiet = dealer(server), dealer(server)
    loud.sndhwm = 0
    for seq in range(1, 202):
        loud.send_multipart(
            frames_of(batch(1, target=f"loud {seq % names}"), secret=SECRET, seq=seq)
        )
    quiet.send_multipart(frames_of(batch(30, target="quiet"), secret=SECRET))
    time.sleep(0.1)
    drafter.delay_s = 0.0
    assert quiet.recv_multipart()
    wait_until(lambda: server.stats.dropped.get("flood", 0) > 0)
    for end in (loud, quiet):
        end.close(linger=0)
    assert server.stop()


def test_a_peer_that_sends_more_bytes_than_are_looked_at_loses_its_own(drafter):
    large = frames_of(batch(*range(500), target="loud"), secret=SECRET)
    num_bytes = sum(map(len, large))
    server = DraftServer(
        drafter, host="127.0.0.1", secret=SECRET, max_pending_bytes=3 * num_bytes + 1
    )
    server.start()
    drafter.delay_s = 0.3
    loud, quiet = dealer(server), dealer(server)
    for seq in range(1, 31):
        loud.send_multipart(frames_of(batch(*range(500), target="loud"), secret=SECRET, seq=seq))
    quiet.send_multipart(frames_of(batch(30, target="quiet"), secret=SECRET))
    time.sleep(0.1)
    drafter.delay_s = 0.0
    assert quiet.recv_multipart()

    def taken() -> int:
        return sum(b.target_id == "loud" for batches in drafter.calls for b in batches)

    wait_until(lambda: taken() + server.stats.dropped.get("flood", 0) == 30)
    assert server.stats.dropped["flood"] > 10
    for end in (loud, quiet):
        end.close(linger=0)
    assert server.stop()


def test_peers_that_connect_and_say_nothing_are_cut_off(server):
    source = source_for(server)
    assert source.draft(batch(1)) is not None
    before = open_files()
    silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(50)]
    for i, end in enumerate(silent):
        end.sendall(b"\xff\x00\x00\x00"[: i % 5])  # the beginning of a greeting, or nothing
    assert source.draft(batch(10)) is not None
    for end in silent:
        end.settimeout(10)
        while end.recv(4096):  # until the server closes
            pass
        end.close()
    wait_until(lambda: open_files() <= before)
    assert server.stats.connections["accepted"] >= 51
    assert source.draft(batch(10)) is not None
    source.close()


def test_a_peer_that_falls_silent_behind_an_open_connection_is_let_go(server):
    relay = listening_between(server.port, bytearray())
    with relay as port:
        source = RemoteDraftSource(deadline_s=0.2, secret=SECRET)
        source.set_address(f"tcp://127.0.0.1:{port}", server_key=server.public_key)
        wait_until(lambda: source.draft(batch(10)) is not None)
        relay.is_cut.set()
        assert source.draft(batch(10)) is None
        wait_until(lambda: server.stats.connections.get("disconnected", 0) > 0, timeout_s=20)
        source.close()
    with closing(source_for(server)) as another:
        assert another.draft(batch(10)) is not None


class Wordy(Counting):
    """Answers every row with 64 KiB, so that a few hundred fill every buffer on the way."""

    def _draft(self, batch):
        shape = (batch.num_drafts, 64 * 1024 // 12)
        return DraftBatch(torch.zeros(shape, dtype=torch.int64), torch.ones(shape))


def test_a_peer_that_does_not_read_loses_its_replies_alone():
    drafter = Wordy()
    server = DraftServer(drafter, host="127.0.0.1", secret=SECRET)
    server.start()
    slow = zmq.Context.instance().socket(zmq.DEALER)
    slow.rcvhwm, slow.sndhwm = 1, 0
    slow.setsockopt(zmq.RCVBUF, 4096)
    slow.connect(server.address)
    with closing(source_for(server)) as source:
        for seq in range(1, 2001):
            slow.send_multipart(frames_of(batch(1, target="slow"), secret=SECRET, seq=seq))
            if seq % 32 == 0:  # no more at a time than a pass takes: nothing is a flood
                assert source.draft(batch(10)) is not None
                wait_until(lambda seq=seq: sum(map(len, drafter.calls)) >= seq)
            if server.stats.unsent >= 10:
                break
        assert source.draft(batch(10)) is not None
        assert server.stats.unsent >= 10
        assert server.stats.dropped == {}
        assert (source.stats.failures, source.stats.timeouts) == (0, 0)
    slow.close(linger=0)
    assert server.stop()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
