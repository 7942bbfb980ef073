"""Two tensor-parallel ranks: rank 0 drafts, both verify the same and emit the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

from loadtest.prompts import PROMPTS
from tests.integration.engines import make_engine

CHATS = [[{"role": "user", "content": prompt}] for prompt in PROMPTS[:16]]


@pytest.fixture(scope="module")
def two_ranks() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OMP_NUM_THREADS", "1")  # a rank's, as where it is served
        engine = make_engine("colocated", tensor_parallel_size=2, distributed_executor_backend="mp")
    yield engine
    # Its ranks alone: the engine's own shutdown would take the other engines' groups along.
    engine.llm_engine.engine_core.engine_core.model_executor.shutdown()


def run(engine: Any, params: Any, chats: Any = CHATS) -> list[list[int]]:
    results = engine.chat(chats, params, use_tqdm=False)
    return [list(r.outputs[0].token_ids) for r in results]


def ranks(engine: Any) -> list[dict[str, Any]]:
    return list(engine.collective_rpc("dspark_stats"))


def test_greedy_output_is_that_of_one_rank_without_speculation(plain, two_ranks):
    params = SamplingParams(temperature=0, max_tokens=48)
    before = ranks(two_ranks)[0]["verified_drafts"]
    assert run(two_ranks, params) == run(plain, params)
    assert ranks(two_ranks)[0]["verified_drafts"] > before + 100


def test_sampled_without_seed_both_ranks_emit_the_same_tokens_for_200_steps(two_ranks):
    before = ranks(two_ranks)[0]
    params = SamplingParams(temperature=0.8, max_tokens=600, ignore_eos=True)
    run(two_ranks, params, CHATS[:2])
    after, follower = ranks(two_ranks)
    assert after["steps"] - before["steps"] > 200
    assert after["verified_drafts"] - before["verified_drafts"] > 300
    assert after["committed_digest"] == follower["committed_digest"] != before["committed_digest"]


REGEX = StructuredOutputsParams(regex=r"[A-Z][a-z]{3,12} \d{2,4}")
# One batch of 8: what q is broadcast for, greedy rows that are one-hot in it, and rows that
# are not drafted for, with the reason they are counted by.
MIXED: list[tuple[dict[str, Any], str | None]] = [
    ({"temperature": 0.8}, None),
    ({"temperature": 0.0}, None),
    ({"temperature": 1.1, "top_k": 20}, None),
    ({"temperature": 0.9, "seed": 7}, "seed"),
    ({"temperature": 0.0}, None),
    ({"temperature": 0.8, "extra_args": {"dspark": "off"}}, "requested"),
    ({"temperature": 0.0, "structured_outputs": REGEX}, "structured_output"),
    ({"temperature": 0.6, "top_p": 0.9}, None),
]


def test_rows_with_and_without_q_share_a_batch_on_every_rank(plain, two_ranks):
    before = ranks(two_ranks)[0]
    params = [
        SamplingParams(max_tokens=96, ignore_eos="structured_outputs" not in p, **p)
        for p, _ in MIXED
    ]
    ours, theirs = (run(engine, params, CHATS[:8]) for engine in (two_ranks, plain))
    decided = [i for i, (p, _) in enumerate(MIXED) if p["temperature"] == 0 or "seed" in p]
    assert [ours[i] for i in decided] == [theirs[i] for i in decided]
    after, follower = ranks(two_ranks)
    assert after["committed_digest"] == follower["committed_digest"] != before["committed_digest"]
    assert after["verified_drafts"] - before["verified_drafts"] > 60
    counted = Counter(after["ineligible"]) - Counter(before["ineligible"])
    assert counted == Counter(reason for _, reason in MIXED if reason)


def test_speculation_goes_off_and_on_between_steps_on_every_rank(plain, two_ranks):
    params = SamplingParams(temperature=0, max_tokens=8)
    two_ranks.collective_rpc("dspark_apply_plan", args=({"controls": {"speculation": False}},))
    drafted = ranks(two_ranks)[0]["verified_drafts"]
    assert run(two_ranks, params) == run(plain, params)
    assert ranks(two_ranks)[0]["verified_drafts"] == drafted
    two_ranks.collective_rpc("dspark_apply_plan", args=({},))
    assert run(two_ranks, params) == run(plain, params)
    assert ranks(two_ranks)[0]["verified_drafts"] > drafted
