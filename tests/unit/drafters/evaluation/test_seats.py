"""How many conversations are held at a time, where memory is short."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drafters.evaluation.kv_cache import num_slots_for
from drafters.evaluation.offline import OfflineEvaluation
from drafters.evaluation.plan import EvaluationPlan, Mode
from drafters.evaluation.seats import longest, seat_bytes, seated
from drafters.evaluation.target import EvaluatedTarget
from tests.unit.drafters.drafter_fixtures import small_drafter
from tests.unit.drafters.evaluation.tiny import (
    VOCABULARY,
    conversation,
    decode,
    encode,
    tiny_target,
)

GIB = 1 << 30
PLAN = EvaluationPlan(
    benchmarks={"tiny": [conversation("short", "abc"), conversation("long", "ab" * 70, "c", "d")]},
    modes=(Mode(0.0, "none"),),
    max_output_tokens=40,
    max_tokens=512,
    window=64,
    num_candidates=32,
    num_seats=32,
    chunk_size=3,
    seed=4,
)
KV_BYTES = 2 * 2 * 2 * 8 * 4  # layers, K and V, heads, head_dim, float32


class Letters:
    def encode(self, users, assistants, thinking):
        return encode(users, assistants)

    def decode(self, tokens):
        return decode(tokens)


def drafter():
    return small_drafter(
        "vanilla",
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_target_layers=2,
        target_layer_ids=[-1, 0],
    )


def target(num_rows: int) -> EvaluatedTarget:
    return EvaluatedTarget(tiny_target(), (-1, 0), num_rows)


@pytest.mark.parametrize(
    ("gib_per_seat", "free_gib", "num_seats"),
    [(1, 64, 32), (1, 40, 32), (1, 39, 16), (4.9, 70, 8), (40, 70, 1)],
)
def test_seats_are_halved_until_they_fit_into_four_fifths_of_what_is_free(
    gib_per_seat, free_gib, num_seats
):
    said: list[str] = []
    found = seated(PLAN, int(gib_per_seat * GIB), free_gib * GIB, said.append)
    assert found == replace(PLAN, num_seats=num_seats)
    assert len(said) == (num_seats < 32)
    assert all(f"{num_seats} are held (--seats {num_seats})" in line for line in said)


def test_a_conversation_that_does_not_fit_at_all_is_refused():
    with pytest.raises(ValueError, match=r"takes 60\.0 GiB of K/V and 56\.0 GiB .*--max-tokens"):
        seated(PLAN, 60 * GIB, 70 * GIB, print)


def test_a_position_takes_what_the_model_keeps_of_it():
    assert target(3).kv_bytes_per_token() == KV_BYTES


def test_a_seat_is_the_slots_of_the_longest_conversation_and_a_window_of_the_drafters():
    model = drafter()
    of_drafter = (64 + 2 * 16) * model.serving().layout.bytes_per_token
    long_prompt = len(encode(["ab" * 70, "c", "d"], ["", ""]))
    whole = long_prompt + 3 * (40 + 5) + 5
    assert longest(PLAN, Letters(), block_size=5) == whole + 1024
    assert seat_bytes(PLAN, Letters(), model, KV_BYTES) == 2048 * KV_BYTES + of_drafter
    single = replace(PLAN, benchmarks={"tiny": [conversation("short", "abc")]})
    assert seat_bytes(single, Letters(), model, KV_BYTES) == 256 * KV_BYTES + of_drafter


def test_no_more_slots_are_used_than_were_counted():
    some = [conversation(f"p{i}", "ab" * (10 * i), "cd" * (50 - 10 * i)) for i in range(5)]
    plan = replace(PLAN, benchmarks={"tiny": some}, num_seats=2, chunk_size=5)
    model, held = drafter(), target(32)
    held.limit_rows(2)
    evaluation = OfflineEvaluation(held, model, Letters(), frozenset(), plan)
    evaluation.evaluate(plan.chunks()[0])
    counted = num_slots_for(longest(plan, Letters(), block_size=5))
    for layer in held._cache.layers:
        num_rows, num_slots = layer.keys.shape[:2]
        assert num_rows == 2
        assert 256 <= num_slots <= counted
    assert held._cache.bytes_per_token == KV_BYTES
