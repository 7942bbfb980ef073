"""What reaches the drafter: the features of the right tokens at the right positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from vllm import SamplingParams

from autoscale.policies import Off
from drafters.messages import DraftBatch, StepBatch
from drafters.sources import ColocatedDraftSource
from loadtest.prompts import PROMPTS, SECOND_TURNS
from tests.integration.engines import BLOCK_TOKENS, LAYERS, draft_engine, draft_from, runner_of

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


class Recorder:
    """A draft engine that keeps every feature row and every draft by position."""

    def __init__(self) -> None:
        self.engine = draft_engine()
        self.features: dict[int, torch.Tensor] = {}
        self.drafts: dict[int, DraftBatch] = {}
        self.starts: list[int] = []

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        (batch,) = batches
        results = self.engine.step(batches)
        for row in batch.rows:
            self.starts.append(row.start)
            self.features |= zip(range(row.start, row.end), batch.features, strict=True)
            if row.anchor is not None:
                self.drafts[row.end] = results[0]
        return results


def run(engine: Any, token_ids: list[int], params: SamplingParams = GREEDY) -> list[int]:
    (result,) = engine.generate({"prompt_token_ids": token_ids}, params, use_tqdm=False)
    return list(result.outputs[0].token_ids)


def prompt_tokens(engine: Any) -> list[int]:
    """Some 150 tokens: several blocks, several chunks."""
    return list(engine.get_tokenizer().encode(" ".join(PROMPTS[:5])))


@pytest.fixture(scope="module")
def reference() -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("models/demo-target", dtype=torch.float32)
    return model.eval()


@torch.inference_mode()
def hidden_states(model: Any, token_ids: list[int]) -> torch.Tensor:
    """`[n, layers * hidden_size]`: the outputs of the chosen layers, side by side."""
    states = model(torch.tensor([token_ids]), output_hidden_states=True).hidden_states
    return torch.cat([states[i + 1][0] for i in LAYERS], dim=-1)


def test_every_row_is_the_reference_models(speculative, reference):
    recorder = Recorder()
    draft_from(speculative, ColocatedDraftSource(recorder))
    prompt = prompt_tokens(speculative)
    first = prompt + run(speculative, prompt)
    again = first + prompt[:50]
    second = again + run(speculative, again)
    assert any(0 < s < len(prompt) and s % BLOCK_TOKENS == 0 for s in recorder.starts)
    # The last tokens of a text never pass through the target.
    positions = [p for p in sorted(recorder.features) if p < len(second) - 1]
    assert len(positions) > len(second) - 20
    expected = hidden_states(reference, second)
    for position in positions:
        torch.testing.assert_close(
            recorder.features[position].float(), expected[position], rtol=1e-3, atol=1e-3
        )


class PerRequest:
    """A draft engine that keeps every feature row by request and position."""

    def __init__(self) -> None:
        self.engine = draft_engine()
        self.features: dict[str, dict[int, torch.Tensor]] = {}

    def step(self, batches: list[StepBatch]) -> list[DraftBatch]:
        (batch,) = batches
        parts = torch.split(batch.features, [row.num_rows for row in batch.rows])
        for row, part in zip(batch.rows, parts, strict=True):
            known = self.features.setdefault(row.request_id, {})
            known |= zip(range(row.start, row.end), part, strict=True)
        return self.engine.step(batches)


def test_rows_of_steps_without_drafts_are_the_reference_models(speculative, reference):
    """Requests of several lengths end one after another while nobody drafts; then one drafts."""
    recorder = PerRequest()
    adapter = draft_from(speculative, ColocatedDraftSource(recorder))
    drafting, adapter.policy = adapter.policy, Off()
    prompts = [prompt_tokens(speculative)[i : i + 20 + i] for i in (0, 7, 30)]
    lengths = [60, 25, 41]
    try:
        results = speculative.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True) for n in lengths],
            use_tqdm=False,
        )
    finally:
        adapter.policy = drafting
    texts = [p + list(r.outputs[0].token_ids) for p, r in zip(prompts, results, strict=True)]
    accepted = adapter.stats.accepted_tokens
    run(speculative, texts[0])  # its first step tells what was held back
    assert adapter.stats.accepted_tokens > accepted
    assert recorder.engine.stats.prefix_blocks_reused > 0
    # Not what was held back of requests before these, nor the last one, a prefix hit.
    told = [features for features in recorder.features.values() if 0 in features]
    for features, text in zip(told, texts, strict=True):
        expected = hidden_states(reference, text)
        assert sorted(features) == list(range(len(text) - 1))
        for position, row in features.items():
            torch.testing.assert_close(row.float(), expected[position], rtol=1e-3, atol=1e-3)


def test_after_a_prefix_hit_drafts_are_those_of_a_cold_start(speculative):
    prompt = prompt_tokens(speculative)
    warm = Recorder()
    draft_from(speculative, ColocatedDraftSource(warm))
    again = prompt + run(speculative, prompt) + prompt[:50]
    warm.drafts.clear()
    warm.starts.clear()
    run(speculative, again)
    assert min(warm.starts) >= len(prompt) - BLOCK_TOKENS  # it was a hit
    assert warm.engine.stats.prefix_blocks_reused >= len(prompt) // BLOCK_TOKENS

    cold = Recorder()
    draft_from(speculative, ColocatedDraftSource(cold))
    run(speculative, again)
    assert min(cold.starts) == 0
    assert warm.drafts.keys() == cold.drafts.keys()
    for position, draft in cold.drafts.items():
        assert torch.equal(warm.drafts[position].tokens, draft.tokens)
        torch.testing.assert_close(
            warm.drafts[position].confidences, draft.confidences, rtol=1e-4, atol=1e-4
        )


def accepted_per_draft(engine: Any, prompts: list[list[int]]) -> float:
    adapter = runner_of(engine).adapter
    before = adapter.stats.accepted_tokens, adapter.stats.verified_drafts
    for prompt in prompts:
        run(engine, prompt)
    after = adapter.stats.accepted_tokens, adapter.stats.verified_drafts
    return (after[0] - before[0]) / (after[1] - before[1])


def test_after_a_prefix_hit_as_much_is_accepted_as_cold(speculative):
    """Second turns of chats, with the context of the first turns and without."""
    tokenizer = speculative.get_tokenizer()
    firsts = [tokenizer.encode(prompt) for prompt in PROMPTS[::5]]
    draft_from(speculative, ColocatedDraftSource(draft_engine()))
    seconds = [
        first + run(speculative, first) + tokenizer.encode(SECOND_TURNS[i % len(SECOND_TURNS)])
        for i, first in enumerate(firsts)
    ]
    warm = accepted_per_draft(speculative, seconds)
    draft_from(speculative, ColocatedDraftSource(draft_engine()))
    cold = accepted_per_draft(speculative, seconds)
    print(f"acceptance length after a prefix hit {1 + warm:.3f}, cold {1 + cold:.3f}")
    assert cold > 0.5
    assert (1 + warm) / (1 + cold) >= 0.95


def test_a_preempted_request_finds_its_context_again(speculative, plain):
    """More requests than KV memory holds: vLLM preempts, recomputes, and nothing changes."""
    from tests.integration.engines import make_engine

    recorder = draft_engine()
    small = make_engine("split", kv_cache_memory_bytes=5 << 20, max_model_len=512)
    adapter = draft_from(small, ColocatedDraftSource(recorder))
    params = SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    prompts = [{"prompt_token_ids": prompt_tokens(plain)[i : i + 64]} for i in range(8)]
    preempted = 0
    suspend = adapter.suspend_requests

    def counting_suspend(request_ids: Any) -> None:
        nonlocal preempted
        ids = list(request_ids)
        preempted += len(ids)
        suspend(ids)

    adapter.suspend_requests = counting_suspend  # type: ignore[method-assign]
    outputs = small.generate(prompts, params, use_tqdm=False)
    expected = plain.generate(prompts, params, use_tqdm=False)
    assert preempted > 8, "closing eight requests suspends eight; no preemption came up"
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in expected]
    assert adapter.num_sessions <= 8
