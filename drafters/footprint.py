"""What sessions cost beside time: memory of the drafter, bytes on the wire per token."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass

import torch

from drafters.config import DrafterConfig
from drafters.engine import DraftEngine
from drafters.messages import DraftBatch, SparseDistribution, StepBatch, StepRow
from drafters.wire import encode_drafts, encode_step

_SESSIONS = 256
_PROMPT_TOKENS = 512
_REQUESTS, _ROWS = 8, 3  # of a usual step: two drafts accepted and the target's own token
_HASH = bytes(16)
_TOKEN = 5


@dataclass(frozen=True, slots=True)
class Footprint:
    """`session_bytes` is bookkeeping per open session, `context_bytes` per 1,000 tokens of
    context. The others are bytes on the wire per token: of a prompt, of a decode step's
    committed tokens, and of the drafts that come back, greedy and sampled."""

    session_bytes: float
    context_bytes: int
    prefill_bytes: float
    decode_bytes: float
    greedy_draft_bytes: float
    sampled_draft_bytes: float


def measure_footprint(engine: DraftEngine, block_tokens: int) -> Footprint:
    """Of a fresh `engine`, whose sessions are opened and closed for it."""
    config, dtype = engine.model.config, engine.model.dtype
    gamma = config.block_size
    blocks = tuple(_HASH for _ in range(_PROMPT_TOKENS // block_tokens))
    prompt = StepRow("r0", 1, 0, _PROMPT_TOKENS, anchor=None, block_hashes=blocks)
    prompt = _with_tokens(prompt, config)
    decode = tuple(
        _with_tokens(StepRow(f"request-{i}", 1, 500, _ROWS, anchor=_TOKEN), config)
        for i in range(_REQUESTS)
    )
    shape = (_REQUESTS, gamma)
    greedy = DraftBatch(torch.zeros(shape, dtype=torch.int64), torch.ones(shape))
    width = (*shape, engine.num_candidates)
    candidates = SparseDistribution(torch.zeros(width, dtype=torch.int64), torch.ones(width))
    sampled = DraftBatch(greedy.tokens, greedy.confidences, candidates)
    return Footprint(
        session_bytes=_session_bytes(engine),
        context_bytes=1000 * engine.model.serving().layout.bytes_per_token,
        prefill_bytes=_step_bytes((prompt,), config.feature_size, dtype) / _PROMPT_TOKENS,
        decode_bytes=_step_bytes(decode, config.feature_size, dtype) / (_REQUESTS * _ROWS),
        greedy_draft_bytes=_drafts_bytes(greedy) / (_REQUESTS * gamma),
        sampled_draft_bytes=_drafts_bytes(sampled) / (_REQUESTS * gamma),
    )


def _session_bytes(engine: DraftEngine) -> float:
    """Python's and numpy's memory per session, the context's own tensors aside."""
    config = engine.model.config
    features = torch.zeros(1, config.feature_size, dtype=engine.model.dtype)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for i in range(_SESSIONS):
        row = _with_tokens(StepRow(f"r{i}", 1, 0, 1, anchor=None), config)
        engine.step([StepBatch("footprint", (row,), features)])
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    engine.close_target("footprint")
    return (after - before) / _SESSIONS


def _with_tokens(row: StepRow, config: DrafterConfig) -> StepRow:
    """The row with a token for each of its features, where the drafter reads them."""
    return row._replace(tokens=(_TOKEN,) * row.num_rows) if config.needs_tokens else row


def _step_bytes(rows: tuple[StepRow, ...], feature_size: int, dtype: torch.dtype) -> int:
    features = torch.zeros(sum(row.num_rows for row in rows), feature_size, dtype=dtype)
    frames = encode_step(
        StepBatch("target", rows, features), seq=1, want_reply=True, secret="0" * 32
    )
    return sum(len(frame) for frame in frames)


def _drafts_bytes(drafts: DraftBatch) -> int:
    return sum(len(frame) for frame in encode_drafts(drafts, seq=1, secret="0" * 32))
