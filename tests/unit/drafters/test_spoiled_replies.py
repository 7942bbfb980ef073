"""A thousand spoiled replies of one drafter: no step fails, and honest drafts still arrive."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest
import torch
import zmq

from drafters.messages import DraftBatch, DraftShape, SparseDistribution
from drafters.sources import RemoteDraftSource
from drafters.wire import HelloMessage, decode, encode_drafts, encode_error, encode_welcome
from tests.unit.drafters.spoiled_messages import SECRET, Frames, at_random, with_header
from tests.unit.drafters.test_draft_wire import GAMMA, WIDTH, batch
from tests.unit.drafters.test_wire_hardening import open_files

NUM_REPLIES = 1000
TOKENS = torch.arange(1, GAMMA + 1).unsqueeze(0)
Q = SparseDistribution(torch.stack((TOKENS, TOKENS + 50), -1), torch.full((1, GAMMA, 2), 0.5))


def honest(seq: int) -> Frames:
    drafts = DraftBatch(TOKENS, torch.full(TOKENS.shape, 0.5), Q)
    return [bytes(frame) for frame in encode_drafts(drafts, seq=seq, secret=SECRET)]


def spoiled(seq: int, rng: random.Random) -> Frames:
    """An honest reply in which something is wrong that chance chose."""
    reply = honest(seq)
    kind = rng.randrange(10)
    if kind == 0:
        return with_header(reply, seq=rng.choice((-1, 0, seq - 1, 1 << 40, "next", None)))
    if kind == 1:
        return with_header(reply, v=rng.randint(0, 99), secret=rng.randbytes(4).hex())
    if kind == 2:
        return with_header(reply, tokens=("int64", (1 << 20, 1 << 20)))
    if kind == 3:
        return [bytes(frame) for frame in encode_welcome(seq=seq, secret=SECRET)]
    if kind == 4:
        return []
    return at_random([bytearray(frame) for frame in reply], rng)


class Liar(threading.Thread):
    """A drafter that answers every step with a spoiled reply, then with an error: the step is
    over at once, and no test waits for a deadline. Honest once `is_honest`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self.address = f"tcp://127.0.0.1:{self._socket.bind_to_random_port('tcp://127.0.0.1')}"
        self._socket.rcvtimeo = 50
        self._rng = random.Random(3)
        self.is_honest = False
        self.is_over = False

    def run(self) -> None:
        while not self.is_over:
            try:
                peer, *frames = self._socket.recv_multipart()
            except zmq.Again:
                continue
            message = decode(frames, SECRET)
            if isinstance(message, HelloMessage):
                self._send(peer, encode_welcome(seq=message.seq, secret=SECRET))
            elif self.is_honest:
                self._send(peer, honest(message.seq))
            else:
                self._send(peer, spoiled(message.seq, self._rng))
                self._send(peer, encode_error("spoiled", seq=message.seq))
        self._socket.close(linger=0)

    def _send(self, peer: bytes, frames: Frames) -> None:
        self._socket.send_multipart([peer, *frames])


@pytest.fixture
def liar() -> Iterator[Liar]:
    made = Liar()
    made.start()
    yield made
    made.is_over = True
    made.join(10)


def test_a_thousand_spoiled_replies_fail_no_step_and_are_counted(liar):
    now_s = 0.0
    source = RemoteDraftSource(
        deadline_s=10,
        secret=SECRET,
        target_id="t",
        shape=DraftShape(WIDTH, GAMMA),
        clock=lambda: now_s,
    )
    source.set_address(liar.address)
    before = open_files()
    num_taken = 0
    for _ in range(NUM_REPLIES):
        now_s += 3600  # whatever went wrong before, it is asked again
        drafts = source.draft(batch(10))
        if drafts is not None:  # noise that left the reply what it was, or tokens that are others
            assert drafts.tokens.shape[0] == 1
            num_taken += 1
    assert num_taken < NUM_REPLIES / 4
    assert source.stats.replies == num_taken
    assert source.stats.failures >= NUM_REPLIES - num_taken
    assert source.stats.errors == 0
    assert source.stats.timeouts == 0
    assert not source.is_refused
    liar.is_honest = True
    now_s += 3600
    assert torch.equal(source.draft(batch(10)).tokens, TOKENS)
    assert open_files() <= before + 2
    source.close()
