"""Greedy outputs side by side: where they part, and how near a tie the target was there.

In float32 on a processor nothing parts. In bfloat16, or on a GPU, the shape of a batch alone
can turn a near-tie, with or without speculation. So every report has a control, the same
model without speculation at another concurrency, and says how wide the gap between the two
likeliest tokens was where an output first differs: a difference at a wide gap is a defect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import httpx

_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Trace:
    """A greedy output: its tokens, and per token the top-2 margin in nats (empty: not asked)."""

    tokens: tuple[int, ...]
    margins: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Divergence:
    """Prompt number `prompt` parts at token `position`; the reference's top-2 margin there."""

    prompt: int
    position: int
    margin: float


@dataclass(frozen=True, slots=True)
class DivergenceReport:
    """The outputs of one arm against the reference's, `num_tokens` of them compared."""

    arm: str
    num_prompts: int
    num_tokens: int
    divergences: tuple[Divergence, ...]

    @property
    def widest_margin(self) -> float:
        """In nats; 0 where nothing parts."""
        return max((d.margin for d in self.divergences), default=0.0)


def compare_traces(
    arm: str, reference: Sequence[Trace], others: Sequence[Trace]
) -> DivergenceReport:
    """First differences per prompt. Outputs that end early part where they end."""
    divergences = []
    num_tokens = 0
    for prompt, (ours, theirs) in enumerate(zip(reference, others, strict=True)):
        length = min(len(ours.tokens), len(theirs.tokens))
        same = next(
            (i for i in range(length) if ours.tokens[i] != theirs.tokens[i]),
            length,
        )
        num_tokens += same
        if same < max(len(ours.tokens), len(theirs.tokens)):
            margin = ours.margins[same] if same < len(ours.margins) else float("inf")
            divergences.append(Divergence(prompt, same, margin))
    return DivergenceReport(arm, len(reference), num_tokens, tuple(divergences))


def format_report(reports: Sequence[DivergenceReport]) -> str:
    """Markdown: a row per arm, then every divergence."""
    lines = [
        "| arm | prompts | parted | tokens equal until then | widest top-2 margin (nats) |",
        "|---|---|---|---|---|",
        *(
            f"| {r.arm} | {r.num_prompts} | {len(r.divergences)} | {r.num_tokens} "
            f"| {r.widest_margin:.4f} |"
            for r in reports
        ),
    ]
    for r in reports:
        lines += [
            f"{r.arm}: prompt {d.prompt} parts at token {d.position}, margin {d.margin:.4f}"
            for d in r.divergences
        ]
    return "\n".join(lines)


def greedy_traces(
    url: str,
    model: str,
    prompts: Sequence[str],
    *,
    max_tokens: int,
    concurrency: int,
    with_margins: bool,
    headers: Mapping[str, str] | None = None,
) -> list[Trace]:
    """Greedy outputs of an OpenAI endpoint of vLLM's kind, `concurrency` at a time.

    Margins come from log probabilities, and requests with those run without speculation: ask
    for them from the reference alone. Raises `httpx.HTTPStatusError` when one is refused.
    """

    async def run() -> list[Trace]:
        seats = asyncio.Semaphore(concurrency)
        async with httpx.AsyncClient(base_url=url, timeout=_TIMEOUT_S, headers=headers) as http:

            async def one(prompt: str) -> Trace:
                async with seats:
                    return await _trace(http, model, prompt, max_tokens, with_margins)

            return list(await asyncio.gather(*map(one, prompts)))

    return asyncio.run(run())


async def _trace(
    http: httpx.AsyncClient, model: str, prompt: str, max_tokens: int, with_margins: bool
) -> Trace:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "return_token_ids": True,
    }
    if with_margins:
        body |= {"logprobs": True, "top_logprobs": 2}
    reply = await http.post("/v1/chat/completions", json=body)
    reply.raise_for_status()
    (choice,) = reply.json()["choices"]
    tokens = choice.get("token_ids")
    if tokens is None:
        raise ValueError(f"{http.base_url} returns no token_ids; it has to be a vLLM endpoint")
    content = (choice.get("logprobs") or {}).get("content") or []
    tops = [[top["logprob"] for top in token["top_logprobs"]] for token in content]
    return Trace(tuple(tokens), tuple(top[0] - top[1] for top in tops))
