"""Context that lags its features: pairs of a feature row and the token after it.

A pair's K/V lie at the token's position, so that a block's name, the hash of the tokens up
to its end, says everything they depend on.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from drafter_fixtures import engine_of, hashes, small_drafter, step_of, text, wide_features

from drafters.context import BlockPool
from drafters.engine import DraftEngine
from drafters.interface import ContextRows, Draft, DraftInputs
from drafters.messages import StepBatch

MODELS = {kind: small_drafter(kind) for kind in ("eagle3", "gemma4_eagle3", "mtp")}
MODEL = MODELS["eagle3"]
WIDTH = MODEL.config.feature_size


def drafted_from(model: Any, positions: list[int], end: int, seed: int = 0) -> Draft:
    """The draft at `end` from the pairs of these feature positions, the newest among them."""
    *older, newest = positions
    assert newest == end - 1
    tokens = text(seed)
    served = model.serving()
    features = wide_features(seed, 512, model.config.feature_size)
    at = torch.tensor(positions)
    with torch.inference_mode():
        context = served.context(ContextRows(features[at], at, tokens[at + 1]))
        inputs = DraftInputs(
            anchors=tokens[end : end + 1],
            starts=torch.tensor([end]),
            context_k=context.k[:, :-1].unsqueeze(1),
            context_v=context.v[:, :-1].unsqueeze(1),
            context_mask=torch.ones(1, len(older), dtype=torch.bool),
            hidden=context.hidden[-1:],
        )
        draft: Draft = served.draft(inputs, with_logits=True)
    return draft


def assert_context(
    engine: DraftEngine, batch: StepBatch, positions: list[int], seed: int = 0
) -> None:
    found = engine.trace(batch)
    wanted = drafted_from(engine.model, positions, batch.rows[0].end, seed)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.tokens, wanted.tokens)


@pytest.mark.parametrize("kind", MODELS)
def test_context_grows_over_steps(kind: str) -> None:
    model = MODELS[kind]
    engine = engine_of(model)
    engine.step([step_of(model, 0, 6, drafts=False)])
    engine.step([step_of(model, 6, 7)])
    assert_context(engine, step_of(model, 7, 18), list(range(18)))
    assert engine.stats.context_tokens == 18


def test_a_pair_lies_where_its_token_is() -> None:
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 3)])
    (session,) = engine._table.sessions.values()
    assert session.table.get(0)[1:] == (1, 4)
    assert session.end == 3


def test_another_next_token_after_a_shared_prefix_is_not_mixed_up() -> None:
    """Both prompts agree up to position 15; the pair (15, token 16) is each one's own."""
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 22, named=0)])
    shared, other = text(0, 16), text(1)
    tokens = torch.cat((shared, other[16:]))
    features = torch.cat((wide_features(0, 16, WIDTH), wide_features(1, 22, WIDTH)[16:]))
    batch = step_of(MODEL, 0, 22, seed=1, request="other")
    row = batch.rows[0]._replace(
        tokens=tuple(tokens[1:23].tolist()),
        block_hashes=hashes(0, 0, 16) + hashes(1, 16, 22),
    )
    found = engine.trace(StepBatch("t", (row,), features))
    assert engine.stats.blocks_used == 6 + 2  # the first four are shared
    alone = engine_of(MODEL).trace(StepBatch("t", (row._replace(block_hashes=()),), features))
    torch.testing.assert_close(found.logits, alone.logits, atol=1e-5, rtol=1e-5)


def test_prefix_is_reused_without_the_pair_across_its_end() -> None:
    """The feature before position 16 is not sent again, so that pair stays missing."""
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 17, named=0)])
    engine.step([StepBatch("t", (), torch.empty(0, WIDTH), ("r",))])
    assert engine.stats.blocks_cached == 4
    again = step_of(MODEL, 16, 20, request="again", named=0)
    assert_context(engine, again, [*range(15), *range(16, 20)])
    assert engine.stats.prefix_blocks_reused == 4


def test_a_block_that_lacks_that_pair_is_shared_as_well() -> None:
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 17, named=0)])
    engine.step([step_of(MODEL, 16, 25, request="second", named=0, closed=("r",))])
    third = step_of(MODEL, 24, 27, request="third", named=0, closed=("second",))
    assert_context(engine, third, [*range(15), *range(16, 23), *range(24, 27)])


def test_overlap_is_cut_with_the_pair_whose_token_may_have_changed() -> None:
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 10)])
    # Slots from 8 on go: the pair (7, token 8) lay there.
    assert_context(engine, step_of(MODEL, 8, 12), [*range(7), *range(8, 12)])


def test_window_slides() -> None:
    engine = engine_of(MODEL, num_blocks=5, window=10)
    engine.step([step_of(MODEL, 0, 7)])
    assert_context(engine, step_of(MODEL, 7, 13), list(range(3, 13)))
    assert_context(engine, step_of(MODEL, 13, 15), list(range(5, 15)))


def test_only_the_last_window_of_a_long_prompt_is_kept() -> None:
    engine = engine_of(MODEL, num_blocks=5, window=10)
    assert_context(engine, step_of(MODEL, 0, 33), list(range(23, 33)))


def test_gap_leaves_a_hole() -> None:
    engine = engine_of(MODEL)
    engine.step([step_of(MODEL, 0, 7)])
    assert_context(engine, step_of(MODEL, 12, 18), [*range(7), *range(12, 18)])
    assert engine.stats.gaps == 1


def test_a_block_that_is_given_away_forgets_what_it_lacked() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    assert block is not None
    pool.register(block, b"first", 1)
    assert pool.first_offset(block) == 1
    pool.release(block)
    assert pool.allocate() == block
    pool.register(block, b"second")
    assert pool.first_offset(block) == 0
