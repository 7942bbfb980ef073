"""The codec, the draft server and the remote source, over loopback."""

from __future__ import annotations

import time
from dataclasses import replace

import msgpack
import pytest
import torch
import zmq

from drafters.messages import DraftBatch, DraftShape, StepBatch, StepRow
from drafters.server import DraftServer
from drafters.sources import CoolOff, RemoteDraftSource
from drafters.wire import (
    PROTOCOL_VERSION,
    DraftsMessage,
    HelloMessage,
    StepMessage,
    WireError,
    decode,
    encode_drafts,
    encode_hello,
    encode_step,
)

GAMMA, WIDTH = 3, 4
SECRET = "s"


class Counting:
    """Drafts anchor + 1, anchor + 2, ...; keeps what it was given."""

    def __init__(self):
        self.calls = []
        self.delay_s = 0.0
        self.closed_targets = []

    def step(self, batches):
        if any(row.start == 666 for b in batches for row in b.rows):
            raise ValueError("a row it does not like")
        time.sleep(self.delay_s)
        self.calls.append(batches)
        return [self._draft(b) for b in batches]

    def _draft(self, batch):
        anchors = [r.anchor for r in batch.rows if r.anchor is not None]
        tokens = torch.tensor(anchors).reshape(-1, 1) + torch.arange(1, GAMMA + 1)
        return DraftBatch(tokens, torch.full(tokens.shape, 0.5))


def batch(*anchors, target="t", start=0, closed=(), dtype=torch.float32, tokens=()):
    rows = tuple(
        StepRow(f"r{i}", 1, start, 2, anchor, 0, (b"h" * 16,), tokens=tokens)
        for i, anchor in enumerate(anchors)
    )
    features = torch.randn(2 * len(rows), WIDTH).to(dtype)
    return StepBatch(target, rows, features, closed)


@pytest.fixture
def drafter():
    return Counting()


@pytest.fixture
def server(drafter):
    with running(drafter) as made:
        yield made


class running:  # noqa: N801 - reads as a statement
    def __init__(self, drafter, *, secret=SECRET, **options):
        self.server = DraftServer(drafter, host="127.0.0.1", secret=secret, **options)

    def __enter__(self):
        self.server.start()
        return self.server

    def __exit__(self, *error):
        assert self.server.stop()


@pytest.fixture
def source(server):
    made = RemoteDraftSource(deadline_s=5, secret=SECRET, address=server.address)
    yield made
    made.close()


def frames_of(step, **changes):
    return [bytes(f) for f in encode_step(step, **{"seq": 7, "want_reply": True} | changes)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_survives_the_wire_to_the_bit(dtype):
    sent = batch(5, None, closed=("gone",), dtype=dtype)
    got = decode(frames_of(sent, secret=SECRET), SECRET)
    assert isinstance(got, StepMessage)
    assert (got.seq, got.want_reply) == (7, True)
    assert (got.batch.rows, got.batch.closed) == (sent.rows, sent.closed)
    assert got.batch.features.dtype == dtype
    assert torch.equal(got.batch.features, sent.features)


def test_a_step_that_is_not_traced_names_no_trace():
    assert "trace" not in msgpack.unpackb(frames_of(batch(5), secret=SECRET)[0])
    assert decode(frames_of(batch(5), secret=SECRET), SECRET).batch.trace == ""
    traced = replace(batch(5), trace="00-t")
    assert decode(frames_of(traced, secret=SECRET), SECRET).batch.trace == "00-t"


@pytest.mark.parametrize("trace", [7, None, "x" * 5000])
def test_a_trace_that_is_none_is_refused(trace):
    header, features = frames_of(replace(batch(5), trace="00-t"), secret=SECRET)
    bad = msgpack.packb(msgpack.unpackb(header) | {"trace": trace})
    with pytest.raises(WireError) as refused:
        decode([bad, features], SECRET)
    assert refused.value.reason == "field"


def test_steps_that_name_a_trace_are_told_of_once_they_are_answered(drafter):
    told = []
    with running(drafter, on_traced=told.append) as server:
        source = RemoteDraftSource(deadline_s=5, secret=SECRET, address=server.address)
        assert source.draft(batch(5)) is not None
        assert source.draft(replace(batch(5, None, 6), trace="00-t")) is not None
        assert source.draft(replace(batch(None), trace="00-u")) is None
        assert source.draft(batch(5)) is not None
        source.close()
    (step,) = told
    assert (step.trace, step.num_drafts, step.num_rows, step.num_merged) == ("00-t", 2, 4, 1)
    assert step.step_s > 0


def test_a_rows_tokens_survive_the_wire():
    sent = batch(5, None, tokens=(2**31 - 1, 5))
    got = decode(frames_of(sent, secret=SECRET), SECRET)
    assert got.batch.rows == sent.rows
    assert got.batch.rows[0].tokens == (2**31 - 1, 5)


@pytest.mark.parametrize("needs_tokens", [False, True])
def test_a_hello_says_the_whole_shape(needs_tokens):
    sent = HelloMessage(4, "t", DraftShape(640, 7, needs_tokens))
    assert decode([bytes(f) for f in encode_hello(sent, secret=SECRET)], SECRET) == sent


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        ((1,), "shape"),
        ((1, 2, 3), "shape"),
        ((1, -1), "field"),
        ((1, 2**31), "field"),
        ((1, 2.0), "field"),
        ((1, True), "field"),
        (5, "field"),
        (None, "field"),
        (b"12", "field"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tokens, reason):
    step = batch(5)
    step = replace(step, rows=(step.rows[0]._replace(tokens=tokens),))
    with pytest.raises(WireError) as refused:
        decode(frames_of(step, secret=SECRET), SECRET)
    assert refused.value.reason == reason


def test_rows_of_an_older_version_are_refused():
    header, features = frames_of(batch(5), secret=SECRET)
    fields = msgpack.unpackb(header)
    fields["rows"] = [row[:8] for row in fields["rows"]]
    with pytest.raises(WireError, match="a row is not a list of 9"):
        decode([msgpack.packb(fields), features], SECRET)
    with pytest.raises(WireError, match=f"version: this side speaks version {PROTOCOL_VERSION}"):
        decode([msgpack.packb(fields | {"v": PROTOCOL_VERSION - 1}), features], SECRET)


def test_drafts_survive_the_wire():
    sent = DraftBatch(torch.randint(0, 9, (2, GAMMA)), torch.rand(2, GAMMA))
    got = decode([bytes(f) for f in encode_drafts(sent, seq=3, secret=SECRET)], SECRET)
    assert isinstance(got, DraftsMessage)
    assert torch.equal(got.drafts.tokens, sent.tokens)
    assert torch.equal(got.drafts.confidences, sent.confidences)


def header_changed(**changes):
    header, *rest = frames_of(batch(5), secret=SECRET)
    return [msgpack.packb(msgpack.unpackb(header) | changes), *rest]


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (header_changed(v=99), "version"),
        (header_changed(secret="guess"), "secret"),
        (header_changed(kind="pickle"), "kind"),
        ([b"\xc1 not msgpack", b""], "header"),
        (frames_of(batch(5), secret=SECRET)[:1], "frames"),
        ([*frames_of(batch(5), secret=SECRET)[:1], b"short"], "shape"),
    ],
)
def test_what_does_not_parse_is_refused_with_a_reason(frames, reason):
    with pytest.raises(WireError) as refused:
        decode(frames, SECRET)
    assert refused.value.reason == reason


def test_a_step_is_answered(source, drafter):
    drafts = source.draft(batch(10, 20))
    assert drafts.tokens.tolist() == [[11, 12, 13], [21, 22, 23]]
    assert source.stats.replies == 1
    assert drafter.calls[0][0].rows[0].block_hashes == (b"h" * 16,)


def test_rows_without_an_anchor_arrive_but_are_not_waited_for(source, drafter):
    assert source.draft(batch(10, None)).tokens.tolist() == [[11, 12, 13]]
    wait_until(lambda: len(drafter.calls) == 2)
    assert [[r.anchor for r in call[0].rows] for call in drafter.calls] == [[10], [None]]
    assert source.draft(batch(None, closed=("x",))) is None
    wait_until(lambda: len(drafter.calls) == 3)
    assert drafter.calls[2][0].closed == ("x",)


def test_a_late_reply_is_dropped_and_the_next_is_right(source, drafter):
    source.set_deadline(0.05)
    drafter.delay_s = 0.2
    assert source.draft(batch(10)) is None
    drafter.delay_s = 0.0
    source.set_deadline(5)
    assert source.draft(batch(20)).tokens.tolist() == [[21, 22, 23]]
    assert (source.stats.timeouts, source.stats.late_replies) == (1, 1)


def test_a_dead_drafter_costs_a_few_deadlines_then_nothing(drafter):
    with running(drafter) as server:
        port = server.port
        source = RemoteDraftSource(deadline_s=0.05, secret=SECRET, address=server.address)
    for _ in range(20):
        assert source.draft(batch(10)) is None
    assert source.stats.requests == 3
    assert source.stats.skipped == 17
    with running(drafter, port=port):  # back on the same port: found again without being told
        source.set_deadline(2)
        wait_until(lambda: source.draft(batch(10)) is not None)
    source.close()


def test_the_cool_off_doubles_until_an_answer():
    cool_off = CoolOff(max_misses=2)
    cool_off.missed(0.0)
    assert cool_off.allows(0.0)
    cool_off.missed(0.0)
    assert not cool_off.allows(0.2)
    assert cool_off.allows(0.25)
    cool_off.missed(0.25)
    assert not cool_off.allows(0.7)
    assert cool_off.allows(0.75)
    cool_off.answered()
    cool_off.missed(0.75)
    assert cool_off.allows(0.75)


def test_another_address_and_secret_take_effect_at_once(source):
    with running(Counting(), secret="other") as other:
        source.set_address(other.address, "other")
        assert source.draft(batch(1)).tokens.tolist() == [[2, 3, 4]]
    source.set_address(None)
    assert source.draft(batch(1)) is None


def test_a_wrong_secret_gets_no_drafts_and_is_counted(server, drafter):
    source = RemoteDraftSource(deadline_s=2, secret="guess", address=server.address)
    assert source.draft(batch(1)) is None
    assert (source.stats.refused, source.stats.spoiled, source.stats.errors) == (1, 0, 0)
    assert server.stats.dropped == {"secret": 1}
    assert drafter.calls == []
    source.close()


def test_pending_steps_of_several_targets_are_drafted_together(server, drafter):
    drafter.delay_s = 0.2  # the first call holds the loop while the others arrive
    sockets = [dealer(server) for _ in range(3)]
    for i, socket in enumerate(sockets):
        socket.send_multipart(frames_of(batch(10 * i, target=f"t{i}"), secret=SECRET))
        time.sleep(0.05)
    for i, socket in enumerate(sockets):
        got = decode(socket.recv_multipart(), SECRET)
        assert got.drafts.tokens[0].tolist() == [10 * i + 1, 10 * i + 2, 10 * i + 3]
        socket.close(linger=0)
    assert [len(call) for call in drafter.calls] == [1, 2]


def test_one_bad_batch_does_not_harm_the_others(server, drafter):
    drafter.delay_s = 0.2
    good, bad, first = dealer(server), dealer(server), dealer(server)
    first.send_multipart(frames_of(batch(1, target="first"), secret=SECRET))
    time.sleep(0.05)
    bad.send_multipart(frames_of(batch(1, target="bad", start=666), secret=SECRET))
    good.send_multipart(frames_of(batch(30, target="good"), secret=SECRET))
    assert decode(good.recv_multipart(), SECRET).drafts.tokens[0].tolist() == [31, 32, 33]
    assert "does not like" in decode(bad.recv_multipart(), SECRET).text
    assert server.stats.rejected == 1
    for socket in (good, bad, first):
        socket.close(linger=0)


def test_silent_targets_are_forgotten():
    clock = [0.0]

    class Forgets(Counting):
        def close_target(self, target_id):
            self.closed_targets.append(target_id)

    drafter = Forgets()
    server = DraftServer(
        drafter, host="127.0.0.1", secret=SECRET, idle_target_s=60, clock=lambda: clock[0]
    )
    server.start()
    source = RemoteDraftSource(deadline_s=5, secret=SECRET, address=server.address)
    assert source.draft(batch(1)) is not None
    clock[0] = 61.0
    wait_until(lambda: drafter.closed_targets == ["t"])
    source.close()
    server.stop()


def test_features_of_another_count_than_the_rows_say_are_refused():
    step = batch(5)
    wrong = replace(step, features=torch.zeros(5, WIDTH))
    with pytest.raises(WireError):
        decode(frames_of(wrong, secret=SECRET), SECRET)


def dealer(server):
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.rcvtimeo = 5000
    socket.connect(server.address)
    return socket


def wait_until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_waits_for_its_turn_is_counted(drafter):
    drafter.delay_s = 0.2
    with running(drafter) as server, zmq.Context() as context, context.socket(zmq.DEALER) as target:
        target.linger = 0
        target.connect(server.address)
        for seq in (1, 2, 3):
            target.send_multipart(frames_of(batch(5), secret=SECRET, seq=seq, want_reply=False))
            if seq == 1:
                wait_until(lambda: server.stats.batches == 1)
                assert server.stats.total_wait_s < drafter.delay_s / 4  # nobody was before it
        wait_until(lambda: server.stats.batches == 3)
        assert server.stats.total_wait_s > drafter.delay_s / 4  # the third, for the second
