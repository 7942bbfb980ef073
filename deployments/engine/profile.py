"""Step costs measured on the live engine: real requests, real context, real drafts.

The engine and its worker are those that serve. Requests of a known context decode with a
fixed number of draft tokens each, so that every step computes a known number of tokens;
prompts of a known length are read behind a known prefix. Drafting is timed apart.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

import numpy as np

from deployments.checkpoints import checkpoint_directory
from deployments.draft_model import DraftShape, check_drafter
from deployments.engine.frontend import mend_frontend
from deployments.engine_args import engine_kwargs, target_directory
from deployments.schema import ModelSpec
from profiles.fingerprint import checkpoint_fingerprint
from profiles.step_cost import (
    DRAFT,
    MEASURED,
    PREFILL,
    VERIFY,
    EngineProvenance,
    StepCostProfile,
    StepCostRow,
)

_SETTLING_STEPS = 2  # after a change, until its drafts are what is verified
_OFF: dict[str, Any] = {"kind": "off"}


@dataclass(frozen=True, slots=True)
class Grid:
    """What is measured: `steps` of every size and round, sizes taking turns over `rounds`."""

    n_requests: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    draft_tokens: tuple[int, ...] = (0, 1, 3, 7)
    context_tokens: tuple[int, ...] = (32, 256, 1024)
    prefill_tokens: tuple[int, ...] = (8, 32, 128, 512)
    steps: int = 8
    rounds: int = 2


Key = tuple[str, int, int]  # phase, tokens of a step, requests


@dataclass
class _Times:
    """Seconds and mean context of every step seen, by phase, size and wanted context."""

    of: dict[tuple[Key, int], list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def rows(self) -> tuple[StepCostRow, ...]:
        rows = []
        for ((phase, n_tokens, n_requests), _), steps in sorted(self.of.items()):
            seconds, context = np.array(steps).T
            low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
            row = StepCostRow(
                phase, n_tokens, n_requests, float(context.mean()), median, high - low, len(steps)
            )
            rows.append(row)
        return tuple(rows)


def measure_profile(
    model: ModelSpec, grid: Grid, progress: Callable[[str], None]
) -> StepCostProfile:
    """Start the model's engine in this process, drafter beside it, and measure it.

    A drafter that is served `split` is timed without the wire: what that adds is learned
    while serving. Sizes and contexts that do not fit the engine are left out.
    """
    from vllm import LLM

    mend_frontend()
    shape = check_drafter(model)
    here = model.model_copy(update={"placement": "colocated", "policy": _OFF})
    engine = LLM(model=target_directory(here), disable_log_stats=True, **engine_kwargs(here, shape))
    progress("the engine is up")
    prober = _Prober(engine, shape, grid)
    for round_ in range(grid.rounds):
        for n_requests in prober.requests():
            for context in prober.contexts(n_requests):
                prober.decode(n_requests, context)
        prober.prefill()
        progress(f"round {round_ + 1} of {grid.rounds} is done")
    (provenance, *_) = engine.collective_rpc("dspark_provenance")
    return StepCostProfile(
        EngineProvenance(**provenance),
        MEASURED,
        datetime.now(UTC).date(),
        prober.times.rows(),
        drafter_version=_drafter_version(model),
    )


def _drafter_version(model: ModelSpec) -> str:
    assert model.drafter is not None
    if model.drafter.source is None:
        return "random"
    field = f"model {model.id}: drafter.source"
    source, revision = model.drafter.source, model.drafter.revision
    return checkpoint_fingerprint(checkpoint_directory(source, field, revision))


class _Prober:
    """Runs an engine step by step and notes what each takes."""

    def __init__(self, engine: Any, shape: DraftShape, grid: Grid) -> None:
        self.times = _Times()
        self._llm = engine
        self._engine = engine.llm_engine
        self._gamma = shape.block_size
        self._grid = grid
        config = self._engine.vllm_config
        self._block = config.cache_config.block_size
        self._room = config.cache_config.num_gpu_blocks * self._block
        self._max_tokens = config.scheduler_config.max_num_batched_tokens
        self._max_requests = config.scheduler_config.max_num_seqs
        self._max_length = config.model_config.max_model_len
        self._vocab = config.model_config.get_vocab_size()
        self._rng = np.random.default_rng(0)
        self._ids = map(str, count())

    def requests(self) -> Iterator[int]:
        """Numbers of requests that the engine has seats for."""
        return (n for n in self._grid.n_requests if n <= self._max_requests)

    def contexts(self, n_requests: int) -> Iterator[int]:
        """Lengths of prompts, for which the cache has room together with what is decoded."""
        longest = min(self._max_length, self._room // n_requests - self._block)
        return (n for n in self._grid.context_tokens if n + self._decoded_at_most <= longest)

    @property
    def _draft_tokens(self) -> list[int]:
        return [k for k in self._grid.draft_tokens if k <= self._gamma]

    @property
    def _decoded_at_most(self) -> int:
        steps = self._grid.steps + _SETTLING_STEPS
        return steps * sum(1 + k for k in self._draft_tokens) + 2

    def decode(self, n_requests: int, context: int) -> None:
        """Steps of `n_requests` behind prompts of `context` tokens, for every draft length."""
        self._use(_OFF)
        running = [self._send(self._prompt(context)) for _ in range(n_requests)]
        lengths: dict[str, int] = {}
        while len(lengths) < n_requests:  # prompts that are still being read
            self._step(lengths)
        for k in self._draft_tokens:
            n_tokens = n_requests * (1 + k)
            if n_tokens > self._max_tokens:
                continue
            self._use({"kind": "fixed", "k": k} if k else _OFF)
            for _ in range(_SETTLING_STEPS):
                self._step(lengths)
            for _ in range(self._grid.steps):
                behind = context + float(np.mean(list(lengths.values())))
                step_s, draft_s, verified = self._step(lengths)
                if verified == n_requests * k:
                    key = (VERIFY, n_tokens, n_requests)
                    self.times.of[key, context].append((step_s, behind))
                if k == self._gamma:
                    key = (DRAFT, n_requests * self._gamma, n_requests)
                    self.times.of[key, context].append((draft_s, behind))
        self._stop(running)

    def prefill(self) -> None:
        """Steps that read so many tokens of one prompt, behind a prefix that is cached."""
        self._use(_OFF)
        for n_tokens in self._grid.prefill_tokens:
            for context in (0, *self._grid.context_tokens):
                behind = context - context % self._block
                if n_tokens > self._max_tokens or behind + n_tokens + 2 > self._max_length:
                    continue
                for _ in range(max(2, self._grid.steps // 2)):
                    prefix = self._prompt(behind)
                    if prefix:
                        self._read([*prefix, 1])
                    step_s = self._read(prefix + self._prompt(n_tokens))
                    self.times.of[(PREFILL, n_tokens, 1), behind].append((step_s, behind))

    def _read(self, prompt: list[int]) -> float:
        """Seconds until a prompt has its first token."""
        running = self._send(prompt)
        lengths: dict[str, int] = {}
        total_s = 0.0
        while not lengths:
            total_s += self._step(lengths)[0]
        self._stop([running])
        return total_s

    def _prompt(self, length: int) -> list[int]:
        return [int(token) for token in self._rng.integers(3, self._vocab, length)]

    def _send(self, prompt: list[int]) -> str:
        from vllm import SamplingParams

        params = SamplingParams(
            max_tokens=self._max_length, temperature=0.0, ignore_eos=True, detokenize=False
        )
        return str(self._engine.add_request(next(self._ids), {"prompt_token_ids": prompt}, params))

    def _step(self, lengths: dict[str, int]) -> tuple[float, float, int]:
        """One engine step: its seconds without drafting, drafting's, draft tokens verified.

        `lengths` are brought up to date: output tokens by request.
        """
        before = self._stats()
        began = time.perf_counter()
        outputs = self._engine.step()
        took_s = time.perf_counter() - began
        after = self._stats()
        lengths.update((o.request_id, len(o.outputs[0].token_ids)) for o in outputs)
        draft_s = after["draft_s"] - before["draft_s"]
        return took_s - draft_s, draft_s, after["draft_tokens"] - before["draft_tokens"]

    def _stats(self) -> dict[str, Any]:
        (stats, *_) = self._llm.collective_rpc("dspark_stats")
        return dict(stats)

    def _stop(self, request_ids: list[str]) -> None:
        self._engine.abort_request(request_ids, internal=True)
        self._engine.step()
        self._llm.reset_prefix_cache()

    def _use(self, policy: dict[str, Any]) -> None:
        self._llm.collective_rpc("dspark_apply_plan", args=({"controls": {"policy": policy}},))
