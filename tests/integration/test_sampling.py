"""Sampled output is the target's: defects of vLLM 0.29 on CPU that are mended, its dense sampler as
a twin, and the first tokens of many answers."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pytest
import torch
import vllm.v1.sample.rejection_sampler as rejection_sampler
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata

import deployments.engine.runner as runner
import drafters.verification as verification
from autoscale.causal_policy import Causal
from autoscale.policies import StepOutcome
from autoscale.step_cost import StepCostTable
from deployments.engine.patches import mend_cpu_rejection_sampler
from deployments.engine.placeholders import padded_requests
from drafters.messages import DraftBatch, SparseDistribution, StepBatch
from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource
from tests.integration.distributions import are_alike, first_three
from tests.integration.engines import BLOCK_TOKENS, draft_engine, draft_from

VOCABULARY = 50


def sampling_metadata(temperature: list[float], top_k: list[int]) -> SamplingMetadata:
    return SamplingMetadata(
        temperature=torch.tensor(temperature),
        all_greedy=False,
        all_random=False,
        top_p=None,
        top_k=torch.tensor(top_k, dtype=torch.int32),
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=torch.zeros(len(top_k)),
        presence_penalties=torch.zeros(len(top_k)),
        repetition_penalties=torch.ones(len(top_k)),
        output_token_ids=[],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


def test_draft_positions_use_their_requests_temperature_and_top_k(plain):
    del plain  # starting an engine puts vLLM's CPU kernels in place
    mend_cpu_rejection_sampler(rejection_sampler)
    logits = torch.randn(6, VOCABULARY, generator=torch.Generator().manual_seed(0))
    # Three requests with 3, 1 and 2 draft tokens; the second is greedy.
    temperature, top_k, counts = [0.5, 0.0, 2.0], [4, VOCABULARY, 7], [3, 1, 2]
    got = rejection_sampler.apply_sampling_constraints(
        logits.clone(),
        torch.tensor(counts, dtype=torch.int32).cumsum(0, dtype=torch.int32),
        sampling_metadata(temperature, top_k),
    )
    row = 0
    for t, k, n in zip(temperature, top_k, counts, strict=True):
        for _ in range(n):
            expected = logits[row] / (t or 1.0)
            kept = expected >= expected.topk(k).values[-1]
            torch.testing.assert_close(got[row][kept], expected[kept])
            assert torch.isinf(got[row][~kept]).all()
            row += 1


def test_vllms_dense_sampler_is_our_twin(speculative):
    """The same drafts, the same q, once sparse and once as rows over the vocabulary."""
    del speculative  # its start puts our sampler in place, and vLLM's CPU kernels
    dense = rejection_sampler.rejection_sample.dense
    width, gamma, draws = 6, 2, 40_000
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(gamma + 1, width, generator=generator)
    q_ids = torch.tensor([[0, 2, 3], [1, 4, 5]])
    q_probs = torch.randn(gamma, 3, generator=generator).softmax(-1)
    q = torch.zeros(gamma, width).scatter(-1, q_ids, q_probs)
    drafts = torch.multinomial(q, draws, replacement=True, generator=generator).t().flatten()
    counts = [gamma] * draws
    ends = torch.arange(1, draws + 1, dtype=torch.int32) * gamma
    metadata = sampling_metadata([1.0] * draws, [width] * draws)
    metadata.all_random = True
    bonus = torch.multinomial(logits[gamma].softmax(-1), draws, replacement=True)
    rows = logits[:gamma].repeat(draws, 1)

    def committed(sample: Any, given: Any) -> Counter[tuple[int, ...]]:
        out = sample(
            *(drafts.int().contiguous(), counts, gamma, ends, given, rows.clone()),
            *(bonus.int().unsqueeze(-1), metadata),
        )
        return Counter(map(tuple, out.tolist()))

    sparse = SparseDistribution(q_ids.repeat(draws, 1), q_probs.repeat(draws, 1))
    ours, control = (committed(rejection_sampler.rejection_sample, sparse) for _ in range(2))
    theirs = committed(dense, q.repeat(draws, 1))
    floor = total_variation(ours, control)
    assert total_variation(ours, theirs) < 2 * floor


def test_a_padded_request_samples_from_its_own_distribution(speculative, plain, monkeypatch):
    """A repeated prompt whose last token alone is left to compute, beside running decodes."""
    padded = []
    strip = runner.strip_placeholders

    def counting_strip(scheduler_output: Any) -> Any:
        padded.extend(padded_requests(scheduler_output.scheduled_spec_decode_tokens))
        return strip(scheduler_output)

    monkeypatch.setattr(runner, "strip_placeholders", counting_strip)
    draft_from(speculative, ColocatedDraftSource(draft_engine()))
    draws = 200
    got = first_tokens(speculative, draws)
    assert len(padded) >= draws // 2, "vLLM no longer pads: the mend may go"
    expected = first_tokens(plain, draws)
    assert total_variation(got, expected) < 0.15  # two samples of one distribution: about 0.05


def first_tokens(engine: Any, draws: int) -> Counter[int]:
    """What one prompt of a block and a token draws first, while another request decodes."""
    prompt = list(range(100, 100 + BLOCK_TOKENS + 1))
    core = engine.llm_engine
    once = SamplingParams(temperature=0.7, top_k=4, max_tokens=1)
    endless = SamplingParams(temperature=0.7, max_tokens=900, ignore_eos=True)
    engine.generate({"prompt_token_ids": prompt}, once, use_tqdm=False)  # fill the prefix cache
    counts: Counter[int] = Counter()
    decoding = False
    for draw in range(draws):
        if not decoding:
            core.add_request(f"decode{draw}", {"prompt_token_ids": prompt[:9]}, endless)
            core.step()
            decoding = True
        core.add_request(f"draw{draw}", {"prompt_token_ids": prompt}, once)
        done = False
        while not done:
            for output in core.step():
                if output.request_id.startswith("decode") and output.finished:
                    decoding = False
                if output.request_id == f"draw{draw}" and output.finished:
                    done = True
                    counts[output.outputs[0].token_ids[0]] += 1
    while core.has_unfinished_requests():
        core.step()
    return counts


def total_variation(a: Counter[Any], b: Counter[Any]) -> float:
    return 0.5 * sum(abs(a[t] / a.total() - b[t] / b.total()) for t in a | b)


class Mortal:
    """A draft source that stops answering after `num_drafts` drafts, or never."""

    def __init__(self, num_drafts: float = math.inf) -> None:
        self._source = ColocatedDraftSource(draft_engine())
        self._left = num_drafts
        self.num_sampled = 0

    def draft(self, batch: StepBatch) -> DraftBatch | None:
        self._left -= batch.num_drafts
        if self._left < 0:
            return None
        drafts = self._source.draft(batch)
        self.num_sampled += drafts is not None and drafts.distribution is not None
        return drafts

    def close(self) -> None:
        self._source.close()


DRAWS = 600
FIXED_PROMPTS = (
    "What is the capital of France?",
    "Write a function that adds two numbers.",
    "Tell me a story about a dog.",
)


def drawn(engine: Any, prompt: str, n: int = 1) -> list[tuple[int, ...]]:
    """The first three tokens of `DRAWS` answers, `n` a request."""
    return first_three(engine, prompt, DRAWS, temperature=0.7, n=n)


@pytest.fixture(scope="module")
def plain_draws(plain) -> dict[str, list[tuple[int, ...]]]:
    """Plain decoding, twice as often as under test."""
    return {prompt: drawn(plain, prompt) + drawn(plain, prompt) for prompt in FIXED_PROMPTS}


def are_the_targets(draws: dict[str, list[tuple[int, ...]]], plain_draws: Any) -> bool:
    return are_alike([(got, plain_draws[prompt]) for prompt, got in draws.items()])


def test_the_first_three_tokens_have_the_targets_distribution(speculative, plain_draws):
    adapter = draft_from(speculative, Mortal())
    draws = {prompt: drawn(speculative, prompt) for prompt in FIXED_PROMPTS}
    assert {len(some) for some in draws.values()} == {DRAWS}
    assert adapter.source.num_sampled > 0
    assert adapter.stats.accepted_tokens > DRAWS
    assert are_the_targets(draws, plain_draws)


class UnguardedCausal(Causal):
    """Drafts whether or not it pays on this machine, at costs that stay what they were."""

    def pauses(self, num_requests: int) -> bool:
        return False

    def choose(self, candidates: Sequence[str], num_requests: int) -> Collection[str]:
        return candidates

    def record_draft(self, num_drafts: int, draft_s: float) -> None:
        pass

    def record_step(self, outcome: StepOutcome) -> None:
        pass


def test_what_a_causal_schedule_admits_leaves_it_alone(speculative, plain_draws, monkeypatch):
    """Drafts of all lengths: it goes by the confidences of sampled tokens."""
    adapter = draft_from(speculative, Mortal())
    token_costs = StepCostTable((1, 64), (0.010, 0.040))
    monkeypatch.setattr(adapter, "policy", UnguardedCausal(token_costs))
    draws = {FIXED_PROMPTS[2]: drawn(speculative, FIXED_PROMPTS[2])}
    by_length = [sum(drafts) for drafts in adapter.stats.drafts]
    assert sum(count > DRAWS // 60 for count in by_length[1:]) >= 3, by_length
    assert adapter.stats.accepted_tokens > DRAWS // 12
    assert are_the_targets(draws, plain_draws)


def test_several_outputs_a_request_while_the_drafter_dies_have_it_too(speculative, plain_draws):
    adapter = draft_from(speculative, Mortal(num_drafts=DRAWS // 2))
    draws = {FIXED_PROMPTS[0]: drawn(speculative, FIXED_PROMPTS[0], 4)}
    assert adapter.stats.accepted_tokens > DRAWS // 8
    assert are_the_targets(draws, plain_draws)


def test_a_drafter_over_the_wire_that_is_lost_half_way_changes_no_distribution(
    speculative, plain_draws
):
    server = DraftServer(draft_engine(), host="127.0.0.1", secret="s")
    server.start()
    source = RemoteDraftSource(deadline_s=2.0, secret="s")
    source.set_address(server.address)
    adapter = draft_from(speculative, source)
    done = threading.Event()

    def stop_half_way() -> None:
        while server.stats.drafts < DRAWS // 4 and not done.wait(0.002):
            pass
        server.stop()

    stop = threading.Thread(target=stop_half_way)
    stop.start()
    try:
        draws = {FIXED_PROMPTS[1]: drawn(speculative, FIXED_PROMPTS[1])}
    finally:
        done.set()
        stop.join()
        source.close()
    assert adapter.stats.verified_drafts > 0
    assert adapter.stats.steps_without_reply > 0
    assert are_the_targets(draws, plain_draws)


@pytest.mark.long  # that these tests can fail needs no proof at every change
@pytest.mark.parametrize("factor", [0.5, math.inf])
def test_a_sampler_that_accepts_the_wrong_share_is_seen(
    factor, speculative, plain_draws, monkeypatch
):
    right = verification.acceptance_ratio
    monkeypatch.setattr(
        verification,
        "acceptance_ratio",
        lambda p, q: (right(p, q) * factor).clamp(0, 1).nan_to_num(1),
    )
    draft_from(speculative, Mortal())
    draws = {prompt: drawn(speculative, prompt) for prompt in FIXED_PROMPTS}
    assert not are_the_targets(draws, plain_draws)


def test_an_aborted_request_frees_its_kv_blocks_and_its_session(speculative):
    drafter = draft_engine()
    adapter = draft_from(speculative, ColocatedDraftSource(drafter))
    core = speculative.llm_engine
    endless = SamplingParams(temperature=0, max_tokens=900, ignore_eos=True)
    request = core.add_request("gone", {"prompt_token_ids": list(range(100, 180))}, endless)
    for _ in range(5):
        core.step()
    pool = core.engine_core.engine_core.scheduler.kv_cache_manager
    assert pool.usage > 0
    assert drafter.num_sessions == 1
    core.abort_request([request], internal=True)
    core.engine_core.engine_core.step()
    assert pool.usage == 0
    assert (drafter.num_sessions, adapter.num_sessions) == (0, 0)
