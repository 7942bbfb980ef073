"""`dspark evaluate` without a cluster: target and drafter in this process, chunk by chunk."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from drafters.engine import DraftEngine
from drafters.evaluation.chat import ChatTemplate
from drafters.evaluation.dialogue import Dialogue, Limits
from drafters.evaluation.loop import SpeculativeLoop, VerifiedDraft
from drafters.evaluation.plan import Chunk, EvaluationPlan, Mode
from drafters.evaluation.seats import BLOCK_TOKENS, num_context_blocks
from drafters.evaluation.target import EvaluatedTarget
from drafters.interface import DraftModel
from profiles.acceptance import acceptance
from profiles.evaluation import (
    DraftPlaces,
    EvaluatedDrafts,
    joined,
    load_evaluation,
    save_evaluation,
)
from profiles.outcomes import Outcomes


class OfflineEvaluation:
    """A target and a drafter that are evaluated by a plan."""

    def __init__(
        self,
        target: EvaluatedTarget,
        drafter: DraftModel,
        chat: ChatTemplate,
        end_tokens: frozenset[int],
        plan: EvaluationPlan,
    ) -> None:
        self._target = target
        self._drafter = drafter
        self._chat = chat
        self._limits = Limits(plan.max_output_tokens, plan.max_tokens, end_tokens)
        self._plan = plan

    def run(
        self,
        directory: Path,
        metadata: Mapping[str, str],
        progress: Callable[[str], None],
    ) -> tuple[EvaluatedDrafts, float]:
        """All chunks, each written to `directory` once it is done and not done again.

        `metadata` are the drafting pair's; files of another pair or plan are refused with a
        ProvenanceError. Returns the drafts and how many seconds they took.
        """
        chunks = self._plan.chunks()
        expected = {**metadata, **self._plan.as_metadata()}
        parts, seconds, here_s, num_here = [], 0.0, 0.0, 0
        for chunk in chunks:
            path = directory / f"chunk-{chunk.number:04}.parquet"
            of_chunk = {**expected, "chunk": f"{chunk.number + 1} of {len(chunks)}"}
            if path.exists():
                drafts, found = load_evaluation(path, of_chunk)
                took_s = float(found["seconds"])
            else:
                began = time.perf_counter()
                drafts = self.evaluate(chunk)
                took_s = time.perf_counter() - began
                save_evaluation(path, drafts, {**of_chunk, "seconds": f"{took_s:.2f}"})
                here_s, num_here = here_s + took_s, num_here + 1
                left_s = here_s / num_here * (len(chunks) - chunk.number - 1)
                progress(_line(of_chunk["chunk"], chunk.mode, drafts, took_s, left_s))
            parts.append(drafts)
            seconds += took_s
        return joined(parts), seconds

    def evaluate(self, chunk: Chunk) -> EvaluatedDrafts:
        """Hold one chunk's conversations: a function of plan and chunk alone."""
        plan, seed = self._plan, self._plan.seed * 1_000_003 + chunk.number
        engine = DraftEngine(
            self._drafter,
            num_blocks=num_context_blocks(plan, plan.num_seats),
            block_tokens=BLOCK_TOKENS,
            num_context_tokens=plan.window,
            num_candidates=plan.num_candidates,
            seed=seed,
        )
        loop = SpeculativeLoop(
            self._target,
            engine,
            self._drafter.config.shape,
            temperature=chunk.mode.temperature,
            num_seats=plan.num_seats,
            generator=torch.Generator(self._target.device).manual_seed(seed + 1),
        )
        encode = partial(self._chat.encode, thinking=chunk.mode.thinking)
        dialogues = [
            Dialogue(conversation, encode, self._chat.decode, self._limits)
            for conversation in chunk.conversations
        ]
        return _table(list(loop.run(dialogues)), chunk.mode, self._drafter.config.block_size)


def _table(drafts: Sequence[VerifiedDraft], mode: Mode, block_size: int) -> EvaluatedDrafts:
    n = len(drafts)
    outcomes = Outcomes(
        prompt_ids=tuple(draft.conversation.key for draft in drafts),
        domains=tuple(draft.conversation.domain for draft in drafts),
        verification_modes=tuple(draft.verification_mode for draft in drafts),
        sampling_temperatures=np.full(n, mode.temperature),
        confidences=np.array([draft.confidences for draft in drafts]).reshape(n, block_size),
        num_admitted=np.full(n, block_size),
        num_accepted=np.array([draft.num_accepted for draft in drafts], dtype=np.int64),
    )
    places = DraftPlaces(
        benchmark=np.array([draft.conversation.benchmark for draft in drafts], dtype=str),
        thinking=np.full(n, mode.thinking),
        turn=np.array([draft.turn + 1 for draft in drafts], dtype=np.int64),
        context_tokens=np.array([draft.position for draft in drafts], dtype=np.int64),
    )
    return EvaluatedDrafts(outcomes, places)


def _line(name: str, mode: Mode, drafts: EvaluatedDrafts, took_s: float, left_s: float) -> str:
    found = acceptance(drafts.outcomes)
    tokens_per_s = found.num_drafts * found.length / took_s
    return (
        f"chunk {name} (temperature {mode.temperature:g}, thinking {mode.thinking}): "
        f"{found.num_prompts} prompts, acceptance length {found.length:.2f}, "
        f"{took_s:.0f} s, {tokens_per_s:.0f} tokens/s; about {left_s / 60:.1f} min left"
    )
