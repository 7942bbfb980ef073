"""A thousand spoiled messages of one peer: all counted, and nothing of them stays."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import NamedTuple

import pytest
import torch
import zmq

from drafters.checkpoint import load_drafter
from drafters.engine import DraftEngine
from drafters.messages import StepBatch, StepRow
from drafters.server import DraftServer
from drafters.wire import HelloMessage
from tests.unit.drafters.spoiled_messages import Fates, spoiled_messages
from tests.unit.drafters.test_draft_wire import Counting, batch, running, wait_until
from tests.unit.drafters.test_wire_hardening import SHAPE, open_files, source_for

MALFORMED = {"frames", "size", "header", "version", "secret", "kind", "field", "dtype", "shape"}
EVERY_REASON = MALFORMED | {
    "range",
    "replay",
}  # "flood" is a matter of speed: `test_wire_hardening`


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_a_thousand_spoiled_messages_stop_nothing_leak_nothing_and_are_counted(encrypted):
    rng = random.Random(1)

    def make_step() -> StepBatch:
        return batch(rng.randrange(50), None, target="spoiled", tokens=rng.choice(((), (3, 4))))

    with (
        running(Counting(), shape=SHAPE, encrypted=encrypted) as server,
        closing(source_for(server)) as source,
    ):

        def still_drafts() -> None:
            assert source.draft(batch(10)).tokens.tolist() == [[11, 12, 13]]

        still_drafts()
        connect(server).close(linger=0)  # what the first of a process opens stays
        before = open_files()
        fates = send_spoiled(server, rng, make_step, still_drafts)
        assert server.stats.dropped == fates
        assert fates.keys() == EVERY_REASON
        assert (server.stats.failed_steps, source.stats.failures) == (0, 0)
        wait_until(lambda: open_files() <= before)


def send_spoiled(
    server: DraftServer,
    rng: random.Random,
    make_step: Callable[[], StepBatch],
    between: Callable[[], None],
) -> Counter[str]:
    """1,000 messages of one peer, each of them handled; returns why they have to be dropped.

    `between` is called now and then, while nothing is pending, and sends one message itself.
    """
    hello = HelloMessage(1, "spoiled", SHAPE)
    peer, fates, counted = connect(server), Fates(), Counter[str]()
    handled = 2  # a hello and a step of the honest target
    wait_until(lambda: num_handled(server) == handled)
    for sent, message in enumerate(spoiled_messages(rng, make_step, hello, 1000), 1):
        fate = fates.of(message.frames)
        assert message.reason in (None, fate)
        counted[fate] += 1
        peer.send_multipart(message.frames)
        if sent % 50 == 0:
            wait_until(lambda due=handled + sent: num_handled(server) == due)
            between()
            handled += 1
    peer.close(linger=0)
    assert server.stats.hellos == 1 + counted.pop("hello")
    assert counted.pop("step") > 100
    return counted


def num_handled(server: DraftServer) -> int:
    """Messages that have come to their end, whichever it was."""
    stats = server.stats
    ended = (stats.hellos, stats.batches, stats.rejected, stats.failed_steps)
    return sum(ended) + sum(stats.dropped.values())


@pytest.fixture(scope="module")
def demo_drafter():
    return load_drafter(
        "models/demo-drafter", dtype=torch.float32, device="cpu", target_dir="models/demo-target"
    )


def test_the_draft_engine_comes_out_of_a_thousand_spoiled_messages_as_it_went_in(demo_drafter):
    engine, untouched = (
        DraftEngine(demo_drafter, num_blocks=512, block_tokens=32, num_context_tokens=512, seed=0)
        for _ in range(2)
    )
    now_s = 0.0
    honest, rng = Honest(engine), random.Random(2)
    with (
        running(engine, idle_target_s=60, clock=lambda: now_s) as server,
        closing(source_for(server, engine.model.config.shape)) as source,
    ):

        def drafts_as_if_untouched() -> None:
            step = honest.next()
            (wanted,) = untouched.step([step])
            drafts = source.draft(step)
            assert torch.equal(drafts.tokens, wanted.tokens)
            torch.testing.assert_close(drafts.confidences, wanted.confidences)

        drafts_as_if_untouched()
        connect(server).close(linger=0)
        held, before = held_by(engine), open_files()
        fates = send_spoiled(server, rng, lambda: engine_step(engine, rng), drafts_as_if_untouched)
        assert server.stats.dropped == fates
        assert fates.keys() == EVERY_REASON
        assert server.stats.rejected > 0
        assert (server.stats.failed_steps, source.stats.failures) == (0, 0)
        assert engine.num_sessions > held.sessions
        now_s = 30.0
        drafts_as_if_untouched()
        now_s = 61.0  # the peer has been silent for that long, the honest target has not
        wait_until(lambda: held_by(engine) == held_by(untouched))
        assert engine.num_sessions == held.sessions
        wait_until(lambda: open_files() <= before)
        drafts_as_if_untouched()


class Honest:
    """Three requests of one target that grow by three tokens a step."""

    def __init__(self, engine: DraftEngine) -> None:
        self._width = engine.model.config.feature_size
        self._end = 0

    def next(self) -> StepBatch:
        start, num_rows = self._end, 3 if self._end else 70
        self._end += num_rows
        rows = tuple(StepRow(f"h{i}", 1, start, num_rows, anchor=100 + i) for i in range(3))
        generator = torch.Generator().manual_seed(start)
        features = torch.randn(3 * num_rows, self._width, generator=generator)
        return StepBatch("honest", rows, features)


def engine_step(engine: DraftEngine, rng: random.Random) -> StepBatch:
    """A step of two requests that the engine takes, or for every tenth one that it does not."""
    config = engine.model.config
    width = config.feature_size + (rng.random() < 0.1)
    rows = tuple(
        StepRow(
            f"r{rng.randrange(20)}-{i}",
            epoch=rng.randrange(3),
            start=rng.randrange(400),
            num_rows=rng.randint(0, 40),
            anchor=rng.choice((None, rng.randrange(config.vocab_size))),
            block_hashes=(rng.randbytes(16),),
            temperature=rng.choice((0.0, 0.8)),
        )
        for i in range(2)
    )
    num_rows = sum(row.num_rows for row in rows)
    return StepBatch("spoiled", rows, torch.randn(num_rows, width))


class Held(NamedTuple):
    sessions: int
    blocks: int
    context_tokens: int


def held_by(engine: DraftEngine) -> Held:
    """What sessions hold; blocks that are only cached are free for the taking."""
    stats = engine.stats
    return Held(stats.sessions, stats.blocks_used, stats.context_tokens)


def connect(server: DraftServer):
    """A peer's bare socket, under CURVE where the server asks for it."""
    made = zmq.Context.instance().socket(zmq.DEALER)
    if server.public_key is not None:
        made.curve_serverkey = server.public_key.encode()
        made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()
    made.connect(server.address)
    return made
