"""Samples of drafts: bounded, forgetting, and adding up whatever the order."""

from __future__ import annotations

import numpy as np
import pytest

from autoscale.draft_sample import MEMORY_S, DraftSample, priorities
from autoscale.exploration import explores, is_held_out, request_seed, sampling_order

COLUMNS = DraftSample.__slots__


def sample(rng: np.random.Generator, num_drafts: int, now_s: float = 0.0) -> DraftSample:
    num_admitted = rng.integers(0, 4, size=num_drafts)
    return DraftSample(
        priorities(rng.random(num_drafts), now_s),
        rng.random((num_drafts, 3), dtype=np.float32),
        num_admitted,
        rng.integers(0, num_admitted + 1),
        rng.random(num_drafts) < 0.5,
    )


def same(a: DraftSample, b: DraftSample) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in COLUMNS)


def merge(a: DraftSample, b: DraftSample, capacity: int) -> DraftSample:
    return DraftSample.merge((a, b), capacity)


@pytest.mark.parametrize("capacity", [10, 1000])
def test_merging_is_commutative_associative_and_idempotent(capacity):
    rng = np.random.default_rng(0)
    a, b, c = (sample(rng, 40, now_s) for now_s in (0.0, 100.0, 50.0))
    ab, bc = merge(a, b, capacity), merge(b, c, capacity)
    assert same(ab, merge(b, a, capacity))
    assert same(merge(ab, c, capacity), merge(a, bc, capacity))
    assert same(merge(ab, c, capacity), DraftSample.merge([c, a, b], capacity))
    assert same(merge(ab, b, capacity), ab)


def test_a_full_sample_keeps_the_highest_priorities():
    rng = np.random.default_rng(1)
    a, b = sample(rng, 30), sample(rng, 30)
    merged = merge(a, b, 20)
    highest = np.sort(np.concatenate((a.priority, b.priority)))[::-1][:20]
    assert merged.priority.tolist() == highest.tolist()


def test_a_draft_weighs_e_times_less_for_every_memory_of_age():
    """Of equally many drafts now and one memory ago, e : 1 stay."""
    rng = np.random.default_rng(2)
    old = sample(rng, 200_000)
    merged = merge(old, sample(rng, 200_000, now_s=MEMORY_S), 8_000)
    num_old = np.isin(merged.priority, old.priority).sum()
    assert num_old / 8_000 == pytest.approx(1 / (1 + np.e), abs=0.02)


def test_an_idle_fleet_forgets_nothing():
    old = sample(np.random.default_rng(3), 50)
    assert len(merge(old, sample(np.random.default_rng(4), 5, now_s=1e9), 100)) == 55


def test_halves_are_by_request():
    drafts = sample(np.random.default_rng(5), 100)
    fitted, judging = drafts.half(held_out=False), drafts.half(held_out=True)
    assert len(fitted) + len(judging) == 100
    assert not fitted.held_out.any()
    assert judging.held_out.all()


def test_a_sample_travels_as_plain_lists():
    drafts = sample(np.random.default_rng(6), 9)
    plain = drafts.to_plain()
    assert type(plain["confidences"]) is list
    assert type(plain["confidences"][0][0]) is float
    assert same(DraftSample.from_plain(plain, 3), drafts)
    assert len(DraftSample.from_plain(DraftSample.empty(3).to_plain(), 3)) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"priority": {}}, "malformed"),
        ({"priority": None}, "differ in length"),
        ({"priority": [1.0]}, "differ in length"),
        ({"confidences": [[0.5, 0.5, 2.0]] * 2}, "cannot be"),
        ({"confidences": [[0.5, 0.5]] * 2}, "reshape"),
        ({"priority": [float("nan"), 1.0]}, "cannot be"),
        ({"num_accepted": [4, 0]}, "cannot be"),
        ({"num_admitted": [4, 3]}, "cannot be"),
        ({"num_admitted": ["many", 3]}, "invalid literal"),
    ],
)
def test_a_malformed_sample_is_refused(changed, message):
    plain = {
        "priority": [2.0, 1.0],
        "confidences": [[0.5, 0.5, 0.5]] * 2,
        "num_admitted": [3, 3],
        "num_accepted": [1, 2],
        "held_out": [True, False],
    }
    assert len(DraftSample.from_plain(plain, 3)) == 2
    with pytest.raises(ValueError, match=message):
        DraftSample.from_plain(plain | changed, 3)


def seeds(num_requests: int) -> np.ndarray:
    return np.array([request_seed(f"request-{i}") for i in range(num_requests)], dtype=np.uint64)


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.5, 1.0])
def test_a_share_of_drafts_explores(rate):
    of_requests = seeds(1000)
    share = explores(of_requests, range(100), rate).mean()
    assert share == pytest.approx(rate, abs=0.003)


def test_exploring_follows_from_request_and_step_alone():
    of_requests = seeds(50)
    decided = explores(of_requests, range(7, 8), 0.3)[0]
    assert explores(of_requests, range(7, 8), 0.3)[0].tolist() == decided.tolist()
    assert explores(of_requests[10:20], range(7, 8), 0.3)[0].tolist() == decided[10:20].tolist()
    assert explores(of_requests, range(8, 9), 0.3)[0].tolist() != decided.tolist()


def test_no_request_explores_more_than_others():
    of_requests = seeds(300)
    by_request = explores(of_requests, range(1000), 0.5).mean(axis=0)
    assert by_request == pytest.approx(np.full(300, 0.5), abs=0.08)  # 5 standard errors


def test_what_explores_is_sampled_and_held_out_as_everything_else():
    of_requests = seeds(4000)
    steps = np.arange(50, dtype=np.uint64)
    order = np.stack([sampling_order(of_requests, np.full(4000, step)) for step in steps])
    exploring = explores(of_requests, range(50), 0.1)
    assert order[exploring].mean() == pytest.approx(0.5, abs=0.01)
    held_out = np.broadcast_to(is_held_out(of_requests), exploring.shape)
    assert held_out.mean() == pytest.approx(0.5, abs=0.03)
    assert held_out[exploring].mean() == pytest.approx(held_out.mean(), abs=0.02)


def test_a_seed_is_the_same_on_every_machine():
    assert request_seed("request-0") == 2332955764310420223
