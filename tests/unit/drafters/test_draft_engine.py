"""The engine against a plain draft from exactly the context it should have kept."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from drafter_fixtures import drafted_from, features, small_engine, small_model, step

from drafters.engine import DraftEngine
from drafters.messages import StepBatch, StepRow
from drafters.sessions import SessionKey


def assert_context(engine: DraftEngine, batch: StepBatch, seed: int, positions: list[int]) -> None:
    """Run the step; its draft must be that of these context positions and no others."""
    found = engine.trace(batch)
    wanted = drafted_from(seed, positions, batch.rows[0].end)
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.confidences, wanted.confidences, atol=1e-5, rtol=1e-5)
    assert torch.equal(found.tokens, wanted.tokens)


def test_sessions_of_many_targets_draft_together_as_alone() -> None:
    lengths = [1, 37, 4, 60, 0, 17]
    engine = small_engine()
    batches = [
        step(0, n, seed=i, target=f"t{i % 4}-{i}", anchor=10 + i) for i, n in enumerate(lengths)
    ]
    together = engine.step(batches)
    for i, n in enumerate(lengths):
        alone = drafted_from(i, list(range(n)), n, anchor=10 + i)
        assert torch.equal(together[i].tokens, alone.tokens)
        torch.testing.assert_close(together[i].confidences, alone.confidences, atol=1e-5, rtol=1e-5)


def test_rows_of_one_batch_answer_in_order_and_prefill_rows_not_at_all() -> None:
    rows = (StepRow("a", 0, 0, 6, 9), StepRow("b", 0, 0, 3, None), StepRow("c", 0, 0, 9, 9))
    batch = StepBatch("t", rows, torch.cat((features(1, 6), features(2, 3), features(3, 9))))
    answer = small_engine().step([batch])[0]
    wanted = [drafted_from(1, list(range(6)), 6), drafted_from(3, list(range(9)), 9)]
    assert torch.equal(answer.tokens, torch.cat([draft.tokens for draft in wanted]))
    empty = small_engine().step([step(0, 3, anchor=None)])[0]
    assert empty.tokens.shape == (0, 5)
    assert empty.tokens.dtype == torch.int64


def test_context_grows_over_steps() -> None:
    engine = small_engine()
    engine.step([step(0, 6, anchor=None)])
    engine.step([step(6, 7)])
    assert_context(engine, step(7, 18), 0, list(range(18)))
    assert engine.stats.context_tokens == 18
    assert engine.stats.drafts == 2


def test_two_steps_of_one_target_run_one_after_the_other() -> None:
    first, second = small_engine().step([step(0, 6), step(6, 11)])
    assert torch.equal(first.tokens, drafted_from(0, list(range(6)), 6).tokens)
    torch.testing.assert_close(second.confidences, drafted_from(0, list(range(11)), 11).confidences)


def test_closed_prefix_is_reused_exactly() -> None:
    engine = small_engine()
    cold = engine.trace(step(0, 16, named=0))
    stored = engine._context.k.clone()
    engine.step([StepBatch("t", (), torch.empty(0, 64), ("r",))])
    assert (engine.stats.blocks_used, engine.stats.blocks_cached) == (0, 4)
    warm = engine.trace(step(16, 16, request="again", named=0))
    assert engine.stats.prefix_blocks_reused == 4
    assert torch.equal(engine._context.k, stored)
    assert torch.equal(warm.logits, cold.logits)


def test_same_prefix_is_stored_once() -> None:
    engine = small_engine()
    engine.step([step(0, 10, named=0, target="a"), step(0, 10, named=0, target="b")])
    assert engine.stats.blocks_used == 2 + 2
    assert_context(engine, step(10, 13, target="b", named=8), 0, list(range(13)))
    assert_context(engine, step(10, 13, target="a", named=8), 0, list(range(13)))
    assert engine.stats.blocks_used == 3 + 2


def test_block_named_by_a_later_row_is_shared() -> None:
    engine = small_engine()
    for target in ("a", "b"):
        engine.step([step(0, 3, target=target, named=0)])
        engine.step([step(3, 5, target=target, named=0)])
    assert engine.stats.blocks_used == 1 + 2


def test_new_epoch_starts_from_named_blocks_only() -> None:
    engine = small_engine()
    engine.step([step(0, 10, named=0)])
    assert_context(engine, step(8, 11, epoch=1, named=0), 0, list(range(11)))
    assert_context(engine, step(11, 14, epoch=2), 0, [11, 12, 13])
    assert engine.num_sessions == 1


def test_gap_leaves_a_hole() -> None:
    engine = small_engine()
    engine.step([step(0, 8)])
    assert_context(engine, step(13, 18), 0, [*range(8), *range(13, 18)])
    assert engine.stats.gaps == 1


def test_gap_within_a_block_keeps_the_newer_rows() -> None:
    engine = small_engine()
    engine.step([step(0, 5)])
    assert_context(engine, step(7, 10), 0, [0, 1, 2, 3, 7, 8, 9])


@pytest.mark.parametrize("start", [0, 3, 4, 6, 9])
def test_overlap_is_cut_and_fed_again(start: int) -> None:
    engine = small_engine()
    engine.step([step(0, 10)])
    positions = list(range(start + 2))
    assert_context(engine, step(start, start + 2), 0, positions)
    assert engine.stats.context_tokens == start + 2


def test_cutting_a_shared_block_leaves_it_to_the_others() -> None:
    engine = small_engine()
    engine.step([step(0, 8, named=0, target="a"), step(0, 8, named=0, target="b")])
    other = step(6, 8, target="b")
    engine.step([replace(other, features=torch.randn(2, 64))])
    assert_context(engine, step(8, 9, target="a"), 0, list(range(9)))


def test_window_slides() -> None:
    engine = small_engine(num_blocks=5, window=10)
    engine.step([step(0, 7)])
    assert_context(engine, step(7, 13), 0, list(range(3, 13)))
    assert_context(engine, step(13, 15), 0, list(range(5, 15)))
    assert engine.stats.blocks_used == 3


def test_only_the_last_window_of_a_long_prompt_is_kept() -> None:
    engine = small_engine(num_blocks=5, window=10)
    rows = (StepRow("a", 0, 0, 33, 9), StepRow("b", 0, 0, 4, None))
    batch = StepBatch("t", rows, torch.cat((features(0, 33), features(1, 4))))
    assert_context(engine, batch, 0, list(range(23, 33)))
    assert_context(engine, step(4, 6, seed=1, request="b"), 1, list(range(6)))


def test_full_pool_takes_unused_cached_blocks_first() -> None:
    engine = small_engine(num_blocks=4, window=12)
    engine.step([step(0, 8, named=0)])
    engine.step([step(0, 12, seed=1, request="s", closed=("r",))])
    assert (engine.stats.evictions, engine.stats.sessions_evicted) == (1, 0)
    # Blocks are released last first, so the beginning of the prefix is still there.
    assert_context(engine, step(8, 9, seed=0, named=0), 0, [0, 1, 2, 3, 8])


def test_full_pool_drops_the_least_recently_used_session_whole() -> None:
    engine = small_engine(num_blocks=6, window=12)
    engine.step([step(0, 8, seed=0, request="old"), step(0, 8, seed=1, target="u")])
    assert_context(engine, step(0, 12, seed=2, target="v"), 2, list(range(12)))
    assert engine.stats.sessions_evicted == 1
    assert_context(engine, step(8, 9, seed=1, target="u"), 1, list(range(9)))
    assert_context(engine, step(8, 10, seed=0, request="old"), 0, [8, 9])


def test_sessions_evicted_within_their_own_step_still_get_drafts() -> None:
    engine = small_engine(num_blocks=4, window=12)
    batches = [step(0, 12, seed=i, target=f"t{i}", named=0) for i in range(3)]
    answers = engine.step(batches)
    for seed, positions in enumerate([[], [], list(range(12))]):
        wanted = drafted_from(seed, positions, 12)
        assert torch.equal(answers[seed].tokens, wanted.tokens)
        torch.testing.assert_close(answers[seed].confidences, wanted.confidences)


def test_no_slot_is_written_twice_in_a_step() -> None:
    """Which of two writes to one slot wins is not defined on every device."""
    engine = small_engine(num_blocks=4, window=12)
    for i in range(3):
        engine._table.feed(SessionKey(f"t{i}", "r"), step(0, 12).rows[0], 12 * i)
    writes = engine._table.take_writes()
    assert [len(writes[block]) for block in sorted(writes)] == [1, 1, 1, 1]


def test_sessions_of_the_step_outlive_idle_ones() -> None:
    engine = small_engine(num_blocks=6, window=12)
    engine.step([step(0, 8, seed=0, target="busy"), step(0, 8, seed=1, target="idle")])
    batches = [step(0, 12, seed=2, target="new"), step(8, 9, seed=0, target="busy")]
    answer = engine.step(batches)[1]
    wanted = drafted_from(0, list(range(9)), 9)
    torch.testing.assert_close(answer.confidences, wanted.confidences, atol=1e-5, rtol=1e-5)


def test_any_traffic_on_a_tiny_pool_drafts_from_valid_context() -> None:
    """Random steps; every session's context must be rows of its own prompt in place."""
    engine = small_engine(num_blocks=7, window=12)
    generator = torch.Generator().manual_seed(3)
    model = small_model()
    with torch.inference_mode():
        true_k = {s: model.context_kv(features(s, 200), torch.arange(200))[0] for s in range(4)}
    ends, epochs = [0] * 4, [0] * 4
    for _ in range(300):
        s, grow, jump = (int(torch.randint(n, (1,), generator=generator)) for n in (4, 6, 12))
        start = max(0, ends[s] + {0: 3, 1: -3}.get(jump, 0))
        if start > 150:
            start, epochs[s] = 0, epochs[s] + 1
        ends[s] = start + grow
        batch = step(start, ends[s], seed=s, request=str(s), epoch=epochs[s], named=0)
        assert engine.step([batch])[0].tokens.shape == (1, 5)
        for key, session in engine._table.sessions.items():
            for logical in session.table:
                block, lo, hi = session.table.get(logical) or (0, 0, 0)
                stored = engine._context.k[:, block * 4 + lo : block * 4 + hi]
                wanted = true_k[int(key.request_id)][:, logical * 4 + lo : logical * 4 + hi]
                torch.testing.assert_close(stored, wanted, atol=1e-5, rtol=1e-5)
    assert engine.stats.evictions > 0
    assert engine.stats.sessions_evicted > 0


def test_features_that_are_not_finite_do_not_spoil_the_next_user_of_a_block() -> None:
    engine = small_engine(num_blocks=5, window=16)
    engine.step([StepBatch("t", (StepRow("bad", 0, 0, 16, 9),), torch.full((16, 64), torch.nan))])
    engine.step([StepBatch("t", (), torch.empty(0, 64), ("bad",))])
    assert_context(engine, step(0, 6), 0, list(range(6)))


def test_close_target_ends_its_sessions_only() -> None:
    engine = small_engine()
    engine.step([step(0, 8, target="a"), step(0, 4, target="b")])
    engine.close_target("a")
    assert engine.num_sessions == 1
    assert engine.stats.blocks_used == 1
    assert_context(engine, step(4, 5, target="b"), 0, list(range(5)))


GOOD = step(0, 4)
ROW = GOOD.rows[0]


def test_counts_can_be_taken_while_another_thread_steps() -> None:
    engine, limit = small_engine(num_blocks=600), 16
    context = limit * 24  # tokens of the sessions that stay open

    def step_on() -> None:
        for i in range(60):
            closed = (f"r{i - 1}",) if i else ()
            engine.step([step(0, 40, seed=i, request=f"r{i}", closed=closed)])

    for i in range(limit):
        engine.step([step(0, 24, seed=i, request="stays", target=f"t{i}")])
    stepping = threading.Thread(target=step_on)
    taken = []
    with switching_threads_often():
        stepping.start()
        while stepping.is_alive():
            taken.append(engine.stats)
    stepping.join()
    assert len(taken) > 100
    assert {stats.sessions for stats in taken} <= {limit, limit + 1}
    assert all(context <= stats.context_tokens <= context + 40 for stats in taken)


@contextmanager
def switching_threads_often() -> Iterator[None]:
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(usual_s)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (replace(GOOD, features=torch.zeros(3, 64)), r"\[3, 64\].*\[4, 64\]"),
        (replace(GOOD, features=torch.zeros(4, 63)), r"\[4, 63\].*\[4, 64\]"),
        (replace(GOOD, features=torch.zeros(4, 64, dtype=torch.int64)), "not floating point"),
        (replace(GOOD, rows=(ROW._replace(anchor=96),)), "anchor 96 is not in 0 .. 95"),
        (replace(GOOD, rows=(ROW._replace(anchor=-1),)), "anchor -1"),
        (replace(GOOD, rows=(ROW._replace(start=-1),)), "start -1"),
        (replace(GOOD, rows=(ROW._replace(num_rows=2),) * 2), "more than one row"),
    ],
)
def test_malformed_batch_is_refused_before_any_change(bad: StepBatch, message: str) -> None:
    engine = small_engine()
    engine.step([step(0, 8, target="u")])
    before, stored = engine.stats, engine._context.k.clone()
    with pytest.raises(ValueError, match=message):
        engine.step([step(8, 12, target="u"), replace(bad, closed=("r",))])
    assert engine.stats == before
    assert torch.equal(engine._context.k, stored)


def test_pool_smaller_than_a_window_is_refused() -> None:
    small_engine(num_blocks=4, window=13)
    with pytest.raises(ValueError, match="can touch 5 blocks"):
        small_engine(num_blocks=4, window=14)


def test_without_heads_confidence_is_the_likeliest_tokens_probability() -> None:
    model = small_model(markov_rank=0, enable_confidence_head=False)
    engine = DraftEngine(model, num_blocks=8, block_tokens=4, num_context_tokens=16)
    draft = engine.trace(step(0, 6))
    wanted = draft.logits.softmax(-1).max(-1)
    torch.testing.assert_close(draft.confidences, wanted.values)
    assert torch.equal(draft.tokens, wanted.indices)
