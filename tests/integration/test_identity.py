"""Greedy output with speculation equals plain vLLM's, token for token, in float32."""

from __future__ import annotations

from typing import Any

import pytest
from vllm import SamplingParams

from drafters.server import DraftServer
from drafters.sources import ColocatedDraftSource, RemoteDraftSource
from loadtest.prompts import PROMPTS, SECOND_TURNS
from tests.integration.engines import GAMMA, draft_engine, draft_from
from tests.integration.oracle import Oracle

MAX_TOKENS = 48
GREEDY = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)


def conversations(first_answers: list[str] | None = None) -> list[list[dict[str, str]]]:
    """The sixty prompts, or their second turns after `first_answers`."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    for i, answer in enumerate(first_answers or []):
        chats[i] += [
            {"role": "assistant", "content": answer},
            {"role": "user", "content": SECOND_TURNS[i % len(SECOND_TURNS)]},
        ]
    return chats


def run(engine: Any, chats: list[Any], params: SamplingParams = GREEDY) -> list[Any]:
    return list(engine.chat(chats, params, use_tqdm=False))


def tokens(results: list[Any]) -> list[list[int]]:
    return [list(r.outputs[0].token_ids) for r in results]


@pytest.fixture(scope="module")
def first_turn(plain: Any) -> list[Any]:
    return run(plain, conversations())


@pytest.fixture(scope="module")
def second_turn(plain: Any, first_turn: list[Any]) -> list[Any]:
    return run(plain, conversations([r.outputs[0].text for r in first_turn]))


def oracle_for(engine: Any, results: list[Any], spoil: float) -> Oracle:
    """An oracle for the next run of the prompts that gave `results`."""
    first = int(next(engine.request_counter))
    texts = {
        str(first + 1 + i): list(r.prompt_token_ids) + list(r.outputs[0].token_ids)
        for i, r in enumerate(results)
    }
    return Oracle(texts, GAMMA, spoil)


def test_every_accepted_length_leaves_the_output_alone(speculative, first_turn, second_turn):
    adapter = draft_from(speculative, oracle_for(speculative, first_turn, spoil=0.7))
    assert tokens(run(speculative, conversations())) == tokens(first_turn)
    answers = [r.outputs[0].text for r in first_turn]
    adapter.source = oracle_for(speculative, second_turn, spoil=0.7)
    # The first turns are in the prefix cache now, so these start from hits.
    assert tokens(run(speculative, conversations(answers))) == tokens(second_turn)
    stats = adapter.stats
    assert stats.verified_drafts > 500
    assert all(stats.accepted_by_position), "an accepted length never came up"
    assert stats.accepted_tokens < stats.draft_tokens


def test_one_request_at_a_time(speculative, first_turn):
    draft_from(speculative, oracle_for(speculative, first_turn, spoil=0.3))
    alone = [run(speculative, [chat])[0] for chat in conversations()]
    assert tokens(alone) == tokens(first_turn)


def test_a_colocated_drafter(speculative, first_turn):
    adapter = draft_from(speculative, ColocatedDraftSource(draft_engine()))
    assert tokens(run(speculative, conversations())) == tokens(first_turn)
    assert adapter.stats.verified_drafts > 500
    assert adapter.stats.gaps == 0


def test_a_drafter_over_the_wire_that_goes_and_comes_back(speculative, first_turn):
    drafter = draft_engine()
    server = DraftServer(drafter, host="127.0.0.1", secret="s")
    server.start()
    source = RemoteDraftSource(deadline_s=2.0, secret="s")
    source.set_address(server.address)
    adapter = draft_from(speculative, source)
    chats = conversations()
    assert tokens(run(speculative, chats[:20])) == tokens(first_turn[:20])
    drafted = adapter.stats.verified_drafts
    assert drafted > 100
    server.stop()
    source.set_deadline(0.02)
    assert tokens(run(speculative, chats[20:40])) == tokens(first_turn[20:40])
    again = DraftServer(draft_engine(), host="127.0.0.1", secret="s")
    again.start()
    source.set_deadline(2.0)
    source.set_address(again.address)
    assert tokens(run(speculative, chats[40:])) == tokens(first_turn[40:])
    assert adapter.stats.verified_drafts > drafted + 100
    source.close()
    again.stop()


def test_sessions_close_with_their_requests(speculative, first_turn):
    drafter = draft_engine()
    adapter = draft_from(speculative, ColocatedDraftSource(drafter))
    run(speculative, conversations()[:8])
    speculative.llm_engine.step()  # the engine tells its worker in the next step
    assert adapter.num_sessions == 0
    assert drafter.num_sessions == 0
