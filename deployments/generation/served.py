"""Answers from a served model, through its OpenAI API.

Requests are in flight side by side and come back in any order. The client tries again
after lost connections, 429 and 5xx, as long as a busy server asks; a request that the
server refuses for good is counted and left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import openai

from deployments.generation.prompts import Prompt
from drafters.answers import Answer

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class ServedModel:
    """Where a model is served, and how hard it may be asked."""

    url: str
    name: str
    api_key: str = "none"
    concurrency: int = 64
    max_retries: int = 10


@dataclass(slots=True)
class Refusals:
    """Prompts without an answer, by reason."""

    reasons: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return ", ".join(f"{count} x {reason}" for reason, count in self.reasons.most_common())


async def answer_from(
    model: ServedModel, prompts: Iterable[Prompt], keep: Callable[[Answer], None]
) -> Refusals:
    """Have `prompts` answered, giving every answer to `keep` as it comes.

    Raises openai.APIConnectionError and openai.APIStatusError (5xx, 401, 403, 404, 429) once
    retries are used up: then nothing else would be answered either. What came before is kept.
    """
    refusals, waiting = Refusals(), iter(prompts)
    async with (
        openai.AsyncOpenAI(
            base_url=f"{model.url.rstrip('/')}/v1",
            api_key=model.api_key,
            max_retries=model.max_retries,
            timeout=_TIMEOUT_S,
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(model.concurrency):
            group.create_task(_answer_all(client, model.name, waiting, keep, refusals))
    return refusals


async def _answer_all(
    client: openai.AsyncOpenAI,
    name: str,
    waiting: Iterator[Prompt],
    keep: Callable[[Answer], None],
    refusals: Refusals,
) -> None:
    for prompt in waiting:
        try:
            keep(await _answer(client, name, prompt))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            refusals.reasons[str(error)] += 1


async def _answer(client: openai.AsyncOpenAI, name: str, prompt: Prompt) -> Answer:
    sampling = prompt.sampling
    completion = await client.completions.create(
        model=name,
        prompt=list(prompt.tokens),
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        extra_body={"ignore_eos": sampling.ignore_eos, "return_token_ids": True},
    )
    output = getattr(completion.choices[0], "token_ids", None)
    if output is None:
        raise ValueError("the server returns no token_ids; needed is vLLM's return_token_ids")
    return Answer(prompt.id, prompt.domain, prompt.source, prompt.tokens, tuple(output))
