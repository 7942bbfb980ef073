"""While nobody drafts: held-back steps tell the drafter the same as steps sent one by one."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from autoscale.policies import Fixed, Off
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.engine_step import EngineStep, RequestTerms
from drafters.messages import DraftBatch

GAMMA, BLOCK, WINDOW, LENGTH = 4, 4, 16, 64


class Sessions:
    """A draft source that keeps per session what it was told: features and block names."""

    def __init__(self):
        self.features = {}
        self.hashes = {}
        self.closed = []
        self.num_batches = 0

    def draft(self, batch):
        self.num_batches += 1
        self.closed += batch.closed
        first = 0
        for row in batch.rows:
            known = self.features.setdefault((row.request_id, row.epoch), {})
            for offset in range(row.num_rows):
                known[row.start + offset] = batch.features[first + offset].tolist()
            names = self.hashes.setdefault((row.request_id, row.epoch), {})
            names |= dict(enumerate(row.block_hashes, row.first_block))
            first += row.num_rows
        shape = (batch.num_drafts, GAMMA)
        return DraftBatch(torch.full(shape, 7), torch.ones(shape))

    def close(self):
        pass


@dataclass(frozen=True)
class OffWithoutRuns(Off):
    """The plain twin: every step goes the long way."""

    def pauses(self, num_requests):
        return False


class Engine:
    """The rows of an engine: a token per request and step, unless told otherwise."""

    def __init__(self, policy, max_positions=1 << 20):
        self.source = Sessions()
        self.adapter = SpeculationAdapter(
            self.source,
            policy,
            target_id="t",
            block_size=GAMMA,
            block_tokens=BLOCK,
            num_context_tokens=WINDOW,
            max_model_len=LENGTH,
            vocab_size=100,
        )
        self.rows = []
        self.computed = {}
        self.tokens = {}
        self.token_ids = np.zeros((4, LENGTH), dtype=np.int32)  # live, as an engine's
        self.terms = RequestTerms(max_positions=max_positions)

    def step(self, prefill=None, finish=(), reorder=False):
        scheduled = {id_: 1 for id_ in self.rows if id_ not in finish} | (prefill or {})
        self.adapter.begin_step(scheduled, {})
        self.adapter.close_requests(finish)
        for id_ in prefill or {}:
            self.adapter.open_request(id_, self.terms)
            self.computed[id_] = 0
            self.tokens[id_] = np.random.default_rng(len(id_)).integers(0, 99, LENGTH)
        # As an engine does: new requests go where finished ones were.
        self.rows = [id_ for id_ in self.rows if id_ not in finish]
        self.rows = [*(prefill or {}), *self.rows] if reorder else [*self.rows, *(prefill or {})]
        counts = [scheduled[id_] for id_ in self.rows]
        features = [
            torch.tensor([[float(self.computed[id_] + j), layer, hash(id_) % 97]])
            for layer in (1.0, 2.0)
            for id_, count in zip(self.rows, counts, strict=True)
            for j in range(count)
        ]
        half = len(features) // 2
        self.token_ids[:] = -1
        for i, id_ in enumerate(self.rows):
            self.token_ids[i] = self.tokens[id_]
        step = EngineStep(
            request_ids=list(self.rows),
            num_scheduled=scheduled,
            drafts={},
            num_computed=np.array([self.computed[id_] for id_ in self.rows], dtype=np.int32),
            sampled=[[5] for _ in self.rows],
            token_ids=self.token_ids,
            features=[torch.cat(features[:half]), torch.cat(features[half:])],
        )
        drafts = self.adapter.step(step)
        for id_, count in zip(self.rows, counts, strict=True):
            self.computed[id_] += count
        return drafts


def play(policy):
    """Two requests decode; one ends, another comes in before the rest; all end."""
    engine = Engine(policy)
    engine.step(prefill={"a": 5, "bb": 9})
    for _ in range(7):
        engine.step()
    engine.step(finish=["a"])
    for _ in range(3):
        engine.step()
    engine.step(prefill={"ccc": 6}, reorder=True)
    for _ in range(21):
        engine.step()
    engine.adapter.begin_step({}, {})
    engine.adapter.close_requests(["bb", "ccc"])
    engine.adapter.flush()
    return engine


def test_a_drafter_learns_the_same_from_runs_as_from_single_steps():
    held, single = play(Off()), play(OffWithoutRuns())
    assert held.source.hashes == single.source.hashes
    assert held.source.features == single.source.features
    assert sorted(held.source.closed) == sorted(single.source.closed) == ["a", "bb", "ccc"]
    assert held.adapter.stats.committed_tokens == single.adapter.stats.committed_tokens
    assert held.adapter.stats.feature_rows == single.adapter.stats.feature_rows
    assert held.adapter.stats.gaps == single.adapter.stats.gaps == 0


def test_a_run_that_ends_with_drafting_is_told_first():
    engine = Engine(Off())
    engine.step(prefill={"a": 5})
    for _ in range(6):
        engine.step()
    assert engine.source.num_batches == 0
    engine.adapter.policy = Fixed(3)
    assert engine.step() == [[7, 7, 7]]
    ((_, known),) = engine.source.features.items()
    assert sorted(known) == list(range(12))


def test_a_run_is_told_when_it_fills_a_window():
    engine = Engine(Off())
    engine.step(prefill={"a": 5})
    for _ in range(WINDOW + 1):
        engine.step()
    engine.adapter.policy = Fixed(3)
    engine.step()
    ((_, known),) = engine.source.features.items()
    assert sorted(known) == list(range(5 + WINDOW + 2))


def test_requests_that_are_not_drafted_for_leave_no_features():
    engine = Engine(Off())
    engine.terms = RequestTerms("seed")
    engine.step(prefill={"a": 5})
    engine.terms = RequestTerms()
    engine.step(prefill={"bb": 3})
    for _ in range(4):
        engine.step()
    engine.adapter.policy = Fixed(3)
    assert engine.step() == [[], [7, 7, 7]]
    assert [id_ for id_, _ in engine.source.features] == ["bb"]


@pytest.mark.parametrize("wants", [1, 5, 9])
def test_a_policy_that_stops_pausing_is_asked_for_whom(wants):
    @dataclass(frozen=True)
    class Probe(Fixed):
        seen: list

        def pauses(self, num_requests):
            self.seen.append(num_requests)
            return len(self.seen) < wants

    engine = Engine(Probe(2, []))
    engine.step(prefill={"a": 5, "bb": 4})  # no run yet: the policy is asked for whom
    engine.adapter.policy = Probe(2, [])
    drafts = []
    while not any(drafts):
        drafts = engine.step()
    assert drafts == [[7, 7], [7, 7]]
