"""`dspark generate`: prompts in, a directory of answers out, by a cluster or by this process."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import openai

from deployments.generation.prompts import Generation, Prompt, read_prompts
from deployments.generation.served import ServedModel, answer_from
from drafters.answers import TARGET, Answer, AnswerWriter, answered
from profiles.fingerprint import checkpoint_fingerprint

_REPORT_EVERY_S = 10.0

Report = Callable[[str], None]


class GenerationError(RuntimeError):
    """Answers stopped coming."""


def generate(
    target_dir: str,
    files: Sequence[Path],
    output: Path,
    options: Generation,
    served: ServedModel | None,
    report: Report,
) -> None:
    """Write what the target answers to the prompts of `files` into `output`.

    `target_dir` has its tokenizer and chat template and, where no model is `served`, its
    weights. Prompts that `output` has an answer to are not asked again, so an interrupted
    run goes on where it stopped. Raises ValueError for unusable files and GenerationError
    when the model stops answering; what was answered stays.
    """
    from transformers import AutoTokenizer

    output.mkdir(parents=True, exist_ok=True)  # said before anything is asked
    writer = AnswerWriter(output, made_by=_made_by(Path(target_dir), options, served))
    prompts = read_prompts(files, AutoTokenizer.from_pretrained(target_dir), options)
    before = answered(output)
    missing = [prompt for prompt in prompts if prompt.id not in before]
    report(f"{len(prompts) - len(missing)} of {len(prompts)} prompts answered before")
    progress = _Progress(len(missing), writer, report)
    try:
        if served is None:
            _in_this_process(target_dir, missing, options, progress)
        else:
            _by_a_cluster(served, missing, progress)
    finally:
        writer.flush()
    report(f"{progress.done} prompts answered, {len(before) + progress.done} in {output}")


def _made_by(target: Path, options: Generation, served: ServedModel | None) -> dict[str, str]:
    """What all answers of a directory have in common; of a tokenizer alone no weights are known."""
    sampling = {
        "temperatures": ", ".join(f"{one:g}" for one in options.temperatures),
        "max_tokens": str(options.max_tokens),
        "past_end": str(options.past_end),
    }
    if any(target.glob("*.safetensors")):
        sampling[TARGET] = checkpoint_fingerprint(target)
    return sampling if served is None else {**sampling, "model": served.name}


class _Progress:
    """Takes answers in, and says now and then how far it is."""

    def __init__(self, total: int, writer: AnswerWriter, report: Report) -> None:
        self.done, self.total, self.report = 0, total, report
        self._writer, self._tokens = writer, 0
        self._began = self._reported = time.monotonic()

    def keep(self, answer: Answer) -> None:
        self._writer.add(answer)
        self.done += 1
        self._tokens += len(answer.output)
        now = time.monotonic()
        if now - self._reported >= _REPORT_EVERY_S or self.done == self.total:
            self._reported = now
            rate = self._tokens / (now - self._began)
            self.report(f"{self.done} of {self.total} answered, {rate:,.0f} tokens per second")


def _by_a_cluster(served: ServedModel, prompts: list[Prompt], progress: _Progress) -> None:
    try:
        refusals = asyncio.run(answer_from(served, prompts, progress.keep))
    except* (openai.APIError, ValueError) as errors:
        raise GenerationError(f"{served.url}: {_first(errors)}") from None
    if refusals.reasons:
        progress.report(f"refused: {refusals}")


def _in_this_process(
    target_dir: str, prompts: list[Prompt], options: Generation, progress: _Progress
) -> None:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    from deployments.engine.offline import answer_offline

    max_length = options.max_prompt_tokens + options.max_tokens
    answer_offline(target_dir, prompts, max_length, options.seed, progress.keep)


def _first(errors: BaseExceptionGroup[Exception]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
