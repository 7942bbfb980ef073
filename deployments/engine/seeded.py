"""Seeded requests whose prompts are prefilled in chunks, on processors.

After every chunk vLLM 0.29 samples a token, discards it, and turns the request's generator
back by moving its offset. A processor's generator has no offset: the engine dies of it, with
or without speculation. Here such a generator is laid aside while the discarded token is
sampled, so there is nothing to turn back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from vllm.v1.worker.cpu_model_runner import CPUModelRunner


@contextmanager
def laid_aside(generators: dict[int, Any], indices: Iterable[int]) -> Iterator[None]:
    """`generators` without those at `indices`, for as long as the context lasts."""
    aside = {i: generators.pop(i) for i in indices if i in generators}
    try:
        yield
    finally:
        generators.update(aside)


class SeededCPUModelRunner(CPUModelRunner):  # type: ignore[misc]
    """vLLM's CPU runner with that mend and nothing else."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        batch = self.input_batch
        discarded = np.flatnonzero(self.discard_request_mask.np[: batch.num_reqs])
        with laid_aside(batch.generators, discarded.tolist()):
            return super().sample_tokens(grammar_output)
