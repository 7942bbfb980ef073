"""Steps, drafts and errors as ZeroMQ frames: the codec, and nothing that opens a socket.

A message is a msgpack header followed by raw little-endian tensor frames:

    hello   header                          a target that connects says what it will send
    welcome header                          answers it, or an error does
    step    header, features
    drafts  header, tokens, confidences     answers the step with the same `seq`; when some
            (, candidate ids, candidate probabilities)           rows are sampled: with q
    error   header                          answers a hello or a step, with a text for the log

Every header carries the protocol version `v`, the kind, `seq` and the shared secret. An
error carries no secret: it also goes to peers that did not know it. A step that is to be
recorded names its `trace`; where none is asked for, nothing of that travels. `v` and `seq` keep
their place in every version, so that a mismatch can be answered.

Nothing here unpickles, and a size is checked before anything of that size is made.
Whatever does not parse raises `WireError`, whose `reason` is a word to count by.
"""

from __future__ import annotations

import hmac
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgpack
import torch

from drafters.messages import DraftBatch, DraftShape, SparseDistribution, StepBatch, StepRow

PROTOCOL_VERSION = 5
MAX_HEADER_BYTES = 16 << 20
MAX_TENSOR_BYTES = 512 << 20
MAX_ROWS = 4096
MAX_TEXT_CHARS = 4096
MAX_HASH_BYTES = 64
MAX_INT = 2**63 - 1
MAX_POSITION = 2**31 - 1
MAX_TEMPERATURE = 1e6

_FEATURE_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TOKEN_DTYPES = {"int64": torch.int64}
_CANDIDATE_DTYPES = {"int32": torch.int32}  # most of a sampled reply
_FLOAT_DTYPES = {"float32": torch.float32}
_DTYPE_NAMES = {
    dtype: name
    for name, dtype in (_FEATURE_DTYPES | _TOKEN_DTYPES | _CANDIDATE_DTYPES | _FLOAT_DTYPES).items()
}

Buffer: TypeAlias = bytes | bytearray | memoryview

assert sys.byteorder == "little", "tensor frames are little-endian"


class WireError(Exception):
    """A message that does not parse, or one that is too large to send.

    `reason` is one of "frames", "size", "header", "version", "secret", "kind", "field",
    "dtype", "shape", "range". `seq` is the message's, where the header got that far.
    """

    def __init__(self, reason: str, text: str, seq: int | None = None) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.seq = seq


@dataclass(frozen=True, slots=True)
class HelloMessage:
    """A target is here: what it will send and take has this shape."""

    seq: int
    target_id: str
    shape: DraftShape


@dataclass(frozen=True, slots=True)
class WelcomeMessage:
    """The target's shape is the drafter's."""

    seq: int


@dataclass(frozen=True, slots=True)
class StepMessage:
    """A target's step; `want_reply` asks for a `DraftsMessage` of the same `seq`."""

    seq: int
    batch: StepBatch
    want_reply: bool


@dataclass(frozen=True, slots=True)
class DraftsMessage:
    """The drafts for the step `seq`."""

    seq: int
    drafts: DraftBatch


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """Why the hello or the step `seq` is refused."""

    seq: int
    text: str


Message: TypeAlias = HelloMessage | WelcomeMessage | StepMessage | DraftsMessage | ErrorMessage


def encode_hello(hello: HelloMessage, *, secret: str) -> list[Buffer]:
    """Frame of a hello."""
    header = {
        "v": PROTOCOL_VERSION,
        "kind": "hello",
        "seq": hello.seq,
        "secret": secret,
        "target": hello.target_id,
        "feature_size": hello.shape.feature_size,
        "block_size": hello.shape.block_size,
        "needs_tokens": hello.shape.needs_tokens,
    }
    return [_pack_header(header)]


def encode_welcome(*, seq: int, secret: str) -> list[Buffer]:
    """Frame of the answer to a hello that fits."""
    return [_pack_header({"v": PROTOCOL_VERSION, "kind": "welcome", "seq": seq, "secret": secret})]


def encode_step(batch: StepBatch, *, seq: int, want_reply: bool, secret: str) -> list[Buffer]:
    """Frames of a step. The features frame borrows the tensor's memory: send it by copy."""
    meta, features = _pack_tensor(batch.features)
    header: dict[str, Any] = {
        "v": PROTOCOL_VERSION,
        "kind": "step",
        "seq": seq,
        "secret": secret,
        "want_reply": want_reply,
        "target": batch.target_id,
        "rows": batch.rows,
        "closed": batch.closed,
        "features": meta,
    }
    if batch.trace:
        header["trace"] = batch.trace
    return [_pack_header(header), features]


def encode_drafts(drafts: DraftBatch, *, seq: int, secret: str) -> list[Buffer]:
    """Frames of a reply. The tensor frames borrow memory, as in `encode_step`."""
    tokens_meta, tokens = _pack_tensor(drafts.tokens)
    confidences_meta, confidences = _pack_tensor(drafts.confidences)
    header: dict[str, Any] = {
        "v": PROTOCOL_VERSION,
        "kind": "drafts",
        "seq": seq,
        "secret": secret,
        "tokens": tokens_meta,
        "confidences": confidences_meta,
    }
    if drafts.distribution is None:
        return [_pack_header(header), tokens, confidences]
    # [n * gamma, k]: the shape of `tokens` gives the rest.
    candidates = drafts.distribution.token_ids.flatten(0, 1).to(torch.int32)
    header["ids"], ids = _pack_tensor(candidates)
    header["probs"], probs = _pack_tensor(drafts.distribution.probs.flatten(0, 1))
    return [_pack_header(header), tokens, confidences, ids, probs]


def encode_error(text: str, *, seq: int) -> list[Buffer]:
    """Frame of an error reply; the text is cut to what a peer accepts."""
    header = {
        "v": PROTOCOL_VERSION,
        "kind": "error",
        "seq": seq,
        "secret": "",
        "text": text[:MAX_TEXT_CHARS],
    }
    return [_pack_header(header)]


def decode(frames: Sequence[Buffer], secret: str) -> Message:
    """The message in `frames`, every field checked.

    Tensors borrow a frame's memory where it is writable and aligned, else they are
    copies. Raises `WireError` and nothing else, whatever the bytes are.
    """
    if not frames:
        raise WireError("frames", "no header frame")
    header = _unpack_header(frames[0])
    seq = _int(header, "seq", MAX_INT)
    try:
        if header.get("v") != PROTOCOL_VERSION:
            raise WireError("version", f"this side speaks version {PROTOCOL_VERSION}")
        kind = _text(header, "kind")
        if kind == "error":
            _expect_frames(frames, 1)
            return ErrorMessage(seq, _text(header, "text"))
        _check_secret(header, secret)
        if kind == "hello":
            _expect_frames(frames, 1)
            names = ("feature_size", "block_size")
            width, gamma = (_int(header, name, MAX_POSITION) for name in names)
            shape = DraftShape(width, gamma, _bool(header, "needs_tokens"))
            return HelloMessage(seq, _text(header, "target"), shape)
        if kind == "welcome":
            _expect_frames(frames, 1)
            return WelcomeMessage(seq)
        if kind == "step":
            _expect_frames(frames, 2)
            return _unpack_step(header, seq, frames[1])
        if kind == "drafts":
            _expect_frames(frames, 5 if "ids" in header else 3)
            return _unpack_drafts(header, seq, frames[1:])
        raise WireError("kind", f"unknown kind {kind[:32]!r}")
    except WireError as error:
        error.seq = seq
        raise


def _pack_header(header: dict[str, Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(header)
    except UnicodeEncodeError as error:
        raise WireError("field", "a name that is not valid Unicode") from error
    if len(packed) > MAX_HEADER_BYTES:
        raise WireError("size", f"header of {len(packed)} bytes, at most {MAX_HEADER_BYTES}")
    return packed


def _pack_tensor(tensor: torch.Tensor) -> tuple[tuple[str, tuple[int, ...]], Buffer]:
    name = _DTYPE_NAMES.get(tensor.dtype)
    if name is None:
        raise WireError("dtype", f"{tensor.dtype} does not travel")
    if tensor.nbytes > MAX_TENSOR_BYTES:
        raise WireError("size", f"tensor of {tensor.nbytes} bytes, at most {MAX_TENSOR_BYTES}")
    meta = (name, tuple(tensor.shape))
    if tensor.numel() == 0:
        return meta, b""
    flat = tensor.detach().cpu().contiguous().view(-1)
    return meta, flat.view(torch.uint8).numpy().data


def _unpack_header(frame: Buffer) -> dict[str, Any]:
    if len(frame) > MAX_HEADER_BYTES:
        raise WireError("size", f"header of {len(frame)} bytes, at most {MAX_HEADER_BYTES}")
    try:
        header = msgpack.unpackb(frame, use_list=False)
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        raise WireError("header", "not msgpack") from error
    if not isinstance(header, dict):
        raise WireError("header", "not a map")
    return header


def _check_secret(header: dict[str, Any], secret: str) -> None:
    offered = header.get("secret")
    if not isinstance(offered, str) or not hmac.compare_digest(offered.encode(), secret.encode()):
        raise WireError("secret", "the shared secret differs")


def _expect_frames(frames: Sequence[Buffer], count: int) -> None:
    if len(frames) != count:
        raise WireError("frames", f"{len(frames)} frames, expected {count}")


def _unpack_step(header: dict[str, Any], seq: int, frame: Buffer) -> StepMessage:
    want_reply = _bool(header, "want_reply")
    rows = tuple(_unpack_row(row) for row in _tuple(header.get("rows"), "rows", MAX_ROWS))
    closed = _tuple(header.get("closed"), "closed", MAX_ROWS)
    if not all(isinstance(name, str) for name in closed):
        raise WireError("field", "closed holds something that is no request id")
    features = _unpack_tensor(header, "features", frame, _FEATURE_DTYPES)
    num_rows = sum(row.num_rows for row in rows)
    if features.shape[0] != num_rows:
        raise WireError("shape", f"{features.shape[0]} feature rows, the rows name {num_rows}")
    trace = _text(header, "trace") if "trace" in header else ""
    batch = StepBatch(_text(header, "target"), rows, features, closed, trace)
    return StepMessage(seq, batch, want_reply)


def _unpack_row(packed: object) -> StepRow:
    if not isinstance(packed, tuple) or len(packed) != len(StepRow._fields):
        raise WireError("field", f"a row is not a list of {len(StepRow._fields)}")
    row = StepRow(*packed)
    request_id, epoch, start, num_rows, anchor, first_block, hashes, temperature, tokens = row
    if not isinstance(request_id, str):
        raise WireError("field", "a row's request id is not a string")
    for value in (start, num_rows, first_block, 0 if anchor is None else anchor):
        _check_int(value, "a row", MAX_POSITION)
    _check_int(epoch, "epoch", MAX_INT)
    if not isinstance(hashes, tuple) or not all(
        isinstance(block_hash, bytes) and len(block_hash) <= MAX_HASH_BYTES for block_hash in hashes
    ):
        raise WireError("field", f"block hashes are not byte strings of {MAX_HASH_BYTES} at most")
    if type(temperature) is not float or not 0 <= temperature <= MAX_TEMPERATURE:
        raise WireError("field", f"a temperature outside 0 to {MAX_TEMPERATURE}")
    if not isinstance(tokens, tuple) or not all(
        type(token) is int and 0 <= token <= MAX_POSITION for token in tokens
    ):
        raise WireError("field", "a row's tokens are not token ids")
    if tokens and len(tokens) != num_rows:
        raise WireError("shape", f"{len(tokens)} tokens for {num_rows} feature rows")
    return row


def _unpack_drafts(header: dict[str, Any], seq: int, frames: Sequence[Buffer]) -> DraftsMessage:
    tokens = _unpack_tensor(header, "tokens", frames[0], _TOKEN_DTYPES)
    confidences = _unpack_tensor(header, "confidences", frames[1], _FLOAT_DTYPES)
    if tokens.shape != confidences.shape:
        raise WireError("shape", "tokens and confidences differ in shape")
    if not bool((tokens >= 0).all()):
        raise WireError("range", "a negative token")
    if not bool(((confidences >= 0) & (confidences <= 1)).all()):  # NaN fails too
        raise WireError("range", "a confidence outside [0, 1]")
    distribution = None
    if "ids" in header:
        distribution = _unpack_distribution(header, tokens.shape, frames[2], frames[3])
    return DraftsMessage(seq, DraftBatch(tokens, confidences, distribution))


def _unpack_distribution(
    header: dict[str, Any], drafts: torch.Size, ids_frame: Buffer, probs_frame: Buffer
) -> SparseDistribution:
    ids = _unpack_tensor(header, "ids", ids_frame, _CANDIDATE_DTYPES)
    probs = _unpack_tensor(header, "probs", probs_frame, _FLOAT_DTYPES)
    if ids.shape != probs.shape or ids.shape[0] != drafts.numel():
        raise WireError("shape", "a draft distribution does not match its tokens")
    if not bool((ids >= 0).all()):
        raise WireError("range", "a negative candidate")
    if not bool(((probs >= 0) & (probs <= 1)).all()):
        raise WireError("range", "a probability outside [0, 1]")
    shape = (*drafts, ids.shape[1])
    return SparseDistribution(ids.to(torch.int64).view(shape), probs.view(shape))


def _unpack_tensor(
    header: dict[str, Any], name: str, frame: Buffer, dtypes: dict[str, torch.dtype]
) -> torch.Tensor:
    meta = _tuple(header.get(name), name, 2)
    if len(meta) != 2 or not isinstance(meta[0], str):
        raise WireError("field", f"{name} is not a dtype and a shape")
    dtype = dtypes.get(meta[0])
    if dtype is None:
        raise WireError("dtype", f"{name} as {meta[0][:32]!r}, expected one of {sorted(dtypes)}")
    shape = _tuple(meta[1], name, 2)
    if len(shape) != 2:
        raise WireError("shape", f"{name} is not two-dimensional")
    for size in shape:
        _check_int(size, name, MAX_POSITION)
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > MAX_TENSOR_BYTES:
        raise WireError("size", f"{name} of {num_bytes} bytes, at most {MAX_TENSOR_BYTES}")
    if len(frame) != num_bytes:
        raise WireError("shape", f"{name}: {len(frame)} bytes, its shape needs {num_bytes}")
    if num_bytes == 0:
        return torch.empty(shape, dtype=dtype)
    return _borrow(frame).view(dtype).view(shape)


def _borrow(frame: Buffer) -> torch.Tensor:
    """The frame as uint8; a copy where it is read-only or not aligned for any dtype."""
    writable = frame if not memoryview(frame).readonly else bytearray(frame)
    raw = torch.frombuffer(writable, dtype=torch.uint8)
    return raw if raw.data_ptr() % 8 == 0 else raw.clone()


def _text(header: dict[str, Any], name: str) -> str:
    value = header.get(name)
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise WireError("field", f"{name} is not a string of {MAX_TEXT_CHARS} at most")
    return value


def _int(header: dict[str, Any], name: str, limit: int) -> int:
    value = header.get(name)
    _check_int(value, name, limit)
    assert isinstance(value, int)
    return value


def _bool(header: dict[str, Any], name: str) -> bool:
    value = header.get(name)
    if not isinstance(value, bool):
        raise WireError("field", f"{name} is not a boolean")
    return value


def _check_int(value: object, name: str, limit: int) -> None:
    if type(value) is not int or not 0 <= value <= limit:
        raise WireError("field", f"{name} holds something outside 0 to {limit}")


def _tuple(value: object, name: str, limit: int) -> tuple[Any, ...]:
    if not isinstance(value, tuple) or len(value) > limit:
        raise WireError("field", f"{name} is not a list of {limit} at most")
    return value
