"""Answers from an engine in this process, for targets that nobody serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllm import LLM, SamplingParams
from vllm.platforms import current_platform

from deployments.generation.prompts import Prompt, Sampling
from drafters.answers import Answer
from drafters.precision import multiplies_bfloat16

_PROMPTS_AT_A_TIME = 512
_SEATS = 128


def answer_offline(
    target_dir: str,
    prompts: Sequence[Prompt],
    max_length: int,
    seed: int,
    keep: Callable[[Answer], None],
) -> None:
    """Have `prompts` answered, giving every answer to `keep`.

    `max_length` is that of the longest prompt and answer together, in tokens.
    """
    if not prompts:
        return
    engine = LLM(
        model=target_dir,
        max_model_len=max_length + 8,
        max_num_seqs=_SEATS,
        seed=seed,
        **(_on_processors() if current_platform.is_cpu() else {}),
    )
    for first in range(0, len(prompts), _PROMPTS_AT_A_TIME):
        some = prompts[first : first + _PROMPTS_AT_A_TIME]
        results = engine.generate(
            [{"prompt_token_ids": list(prompt.tokens)} for prompt in some],
            [_params(prompt.sampling) for prompt in some],
            use_tqdm=False,
        )
        for prompt, result in zip(some, results, strict=True):
            output = tuple(result.outputs[0].token_ids)
            keep(Answer(prompt.id, prompt.domain, prompt.source, prompt.tokens, output))


def _on_processors() -> dict[str, Any]:
    return {
        "dtype": "auto" if multiplies_bfloat16("cpu") else "float32",
        "enforce_eager": True,
        "block_size": 32,
        "kv_cache_memory_bytes": 1 << 30,
    }


def _params(sampling: Sampling) -> SamplingParams:
    return SamplingParams(
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        ignore_eos=sampling.ignore_eos,
    )
