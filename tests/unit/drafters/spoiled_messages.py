"""Messages that no honest target sends: steps and hellos, spoiled in a named way or at random."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgpack
import torch

from drafters.messages import DraftBatch, StepBatch
from drafters.wire import (
    PROTOCOL_VERSION,
    HelloMessage,
    StepMessage,
    WireError,
    decode,
    encode_drafts,
    encode_hello,
    encode_step,
    encode_welcome,
)

SECRET = "s"

Frames = list[bytes]


class Spoiled(NamedTuple):
    """`reason` is what the server has to count it by; None where chance has it decide."""

    frames: Frames
    reason: str | None


def with_header(step: Frames, **changes: Any) -> Frames:
    return [msgpack.packb(msgpack.unpackb(step[0]) | changes), *step[1:]]


def beyond_range(rng: random.Random) -> Frames:
    """Drafts, which go the other way, with a confidence that is none."""
    drafts = DraftBatch(torch.zeros(1, 2, dtype=torch.int64), torch.full((1, 2), 1 + rng.random()))
    return [bytes(frame) for frame in encode_drafts(drafts, seq=1, secret=SECRET)]


def of_another_kind(step: Frames, rng: random.Random) -> Frames:
    if rng.random() < 0.5:
        return with_header(step, kind="pickle")
    return [bytes(frame) for frame in encode_welcome(seq=1, secret=SECRET)]


# Every reason that a message can be dropped for without being understood.
SPOIL: dict[str, Callable[[Frames, random.Random], Frames]] = {
    "frames": lambda step, rng: [*step, rng.choice(step)],
    "size": lambda step, rng: with_header(step, features=("float32", (1 << 20, 1 << 20))),
    "header": lambda step, rng: [b"\xc1" + rng.randbytes(rng.randint(0, 64)), *step[1:]],
    "version": lambda step, rng: with_header(step, v=rng.randint(PROTOCOL_VERSION + 1, 99)),
    "secret": lambda step, rng: with_header(step, secret=rng.randbytes(8).hex()),
    "kind": of_another_kind,
    "field": lambda step, rng: with_header(step, closed=[rng.randint(0, 9)]),
    "dtype": lambda step, rng: with_header(step, features=("complex64", (2, 2))),
    "shape": lambda step, rng: [step[0], step[1][: -rng.randint(1, 8)]],
    "range": lambda step, rng: beyond_range(rng),
}


def spoiled_messages(
    rng: random.Random, make_step: Callable[[], StepBatch], hello: HelloMessage, count: int
) -> Iterator[Spoiled]:
    """`count` messages of one peer: most are spoiled, some are good, some come again."""
    last: Frames | None = None
    for seq in range(1, count + 1):
        frames = encode_step(make_step(), seq=seq, want_reply=seq % 2 == 0, secret=SECRET)
        step = [bytes(frame) for frame in frames]
        chance = rng.random()
        if chance < 0.4:
            reason = rng.choice(list(SPOIL))
            yield Spoiled(SPOIL[reason](step, rng), reason)
        elif chance < 0.8:
            greets = rng.random() < 0.2
            whole = encode_hello(hello, secret=SECRET) if greets else step
            yield Spoiled(at_random([bytearray(frame) for frame in whole], rng), None)
        elif chance < 0.9 and last is not None:
            yield Spoiled(last, "replay")
        else:
            last = step
            yield Spoiled(step, None)


def at_random(frames: list[bytearray], rng: random.Random) -> Frames:
    """Bytes flipped, frames cut, repeated, reordered, or noise in their place."""
    for _ in range(rng.randint(1, 4)):
        kind = rng.randrange(6)
        frame = rng.choice(frames)
        if kind <= 1 and frame:
            frame[rng.randrange(len(frame))] = rng.randrange(256)
        elif kind == 2:
            del frame[rng.randint(0, len(frame)) :]
        elif kind == 3:
            frames.append(bytearray(frame))
        elif kind == 4:
            rng.shuffle(frames)
        else:
            frame[:] = rng.randbytes(rng.randint(0, 64))
    return [bytes(frame) for frame in frames]


class Fates:
    """What a server has to make of one peer's messages, in their order."""

    def __init__(self) -> None:
        self._heard: dict[str, int] = {}

    def of(self, frames: Frames) -> str:
        """What comes of a message: "hello", "step", or the reason that it is dropped for."""
        try:
            message = decode(frames, SECRET)
        except WireError as error:
            return error.reason
        if isinstance(message, HelloMessage):
            return "hello"
        if not isinstance(message, StepMessage):
            return "kind"
        target_id = message.batch.target_id
        if message.seq <= self._heard.get(target_id, -1):
            return "replay"
        self._heard[target_id] = message.seq
        return "step"
