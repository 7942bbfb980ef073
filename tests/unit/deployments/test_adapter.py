import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from autoscale.policies import Fixed, Off
from deployments.engine.adapter import SpeculationAdapter
from deployments.engine.engine_step import EngineStep, RequestTerms
from deployments.engine.prefix_hash import extend_prefix_hashes
from drafters.messages import DraftBatch, SparseDistribution

GAMMA, BLOCK, WINDOW = 4, 8, 16


class RecordingSource:
    """Keeps what it is sent; drafts 100, 101, ... for every row unless told to be late."""

    def __init__(self):
        self.batches = []
        self.late = False

    def draft(self, batch):
        self.batches.append(batch)
        if self.late:
            return None
        shape = (batch.num_drafts, GAMMA)
        return DraftBatch(torch.arange(100, 100 + GAMMA).expand(shape), torch.ones(shape))

    def close(self):
        pass


@pytest.fixture
def source():
    return RecordingSource()


@pytest.fixture
def adapter(source):
    return make_adapter(source)


def make_adapter(source, policy=None):
    return SpeculationAdapter(
        source,
        policy or Fixed(3),
        target_id="t",
        block_size=GAMMA,
        block_tokens=BLOCK,
        num_context_tokens=WINDOW,
        max_model_len=64,
        vocab_size=200,
    )


def engine_step(*requests):
    """Requests as (id, tokens computed before, scheduled, drafts, sampled)."""
    total = sum(r[2] for r in requests)
    return EngineStep(
        request_ids=[r[0] for r in requests],
        num_scheduled={r[0]: r[2] for r in requests},
        drafts={r[0]: r[3] for r in requests if r[3]},
        num_computed=np.array([r[1] for r in requests], dtype=np.int32),
        sampled=[r[4] for r in requests],
        token_ids=np.tile(np.arange(64, dtype=np.int32), (len(requests), 1)),
        features=[
            torch.arange(total)[:, None].float(),
            1000 + torch.arange(total)[:, None].float(),
        ],
    )


def test_a_prompt_opens_a_session_and_is_drafted_for(adapter, source):
    assert adapter.step(engine_step(("a", 0, 10, [], [7]))) == [[100, 101, 102]]
    (row,) = source.batches[0].rows
    assert (row.start, row.num_rows, row.anchor, row.first_block) == (0, 10, 7, 0)
    assert row.block_hashes == tuple(names(10))
    assert source.batches[0].features[:, 0].tolist() == list(range(10))
    assert source.batches[0].features[:, 1].tolist() == [1000 + i for i in range(10)]


def names(num_tokens):
    hashes = []
    extend_prefix_hashes(hashes, np.arange(64, dtype=np.int32), num_tokens, BLOCK)
    return hashes


def test_rows_of_rejected_drafts_are_left_out(adapter, source):
    adapter.step(engine_step(("a", 0, 6, [], [7]), ("b", 0, 3, [], [8])))
    adapter.step(
        engine_step(("a", 6, 4, [100, 101, 102], [100, 9]), ("b", 3, 4, [100, 101, 102], [5]))
    )
    a, b = source.batches[1].rows
    assert (a.start, a.num_rows, a.anchor) == (6, 2, 9)
    assert (b.start, b.num_rows, b.anchor) == (3, 1, 5)
    assert source.batches[1].features[:, 0].tolist() == [0, 1, 4]
    assert a.epoch == source.batches[0].rows[0].epoch
    assert adapter.stats.accepted_tokens == 1
    assert adapter.stats.admitted_by_position == [2, 2, 2, 0]
    assert adapter.stats.reached_by_position == [2, 1, 0, 0]
    assert adapter.stats.accepted_by_position == [1, 0, 0, 0]
    assert adapter.stats.draft_tokens == 6
    assert adapter.stats.committed_tokens == 5


def test_a_chunk_of_a_prompt_becomes_context_only(adapter, source):
    assert adapter.step(engine_step(("a", 0, 8, [], []))) == [[]]
    assert source.batches[0].rows[0].anchor is None
    adapter.step(engine_step(("a", 8, 3, [], [7])))
    (row,) = source.batches[1].rows
    assert (row.start, row.anchor, row.first_block, row.block_hashes) == (8, 7, 1, ())


def test_after_a_prefix_hit_the_blocks_below_are_named(adapter, source):
    adapter.step(engine_step(("a", 16, 3, [], [7])))
    (row,) = source.batches[0].rows
    assert (row.start, row.first_block, row.block_hashes) == (16, 0, tuple(names(19)))


def test_only_the_last_context_window_is_sent_from_a_block_boundary(adapter, source):
    adapter.step(engine_step(("a", 0, 37, [], [7])))
    (row,) = source.batches[0].rows
    assert (row.start, row.num_rows) == (16, 21)  # 37 - 16 = 21, down to a multiple of 8
    assert source.batches[0].features[:, 0].tolist() == list(range(16, 37))


def test_a_preempted_request_comes_back_under_a_new_epoch(adapter, source):
    adapter.step(engine_step(("a", 0, 10, [], [7])))
    adapter.suspend_requests(["a"])
    adapter.step(engine_step(("a", 8, 4, [], [9])))
    assert source.batches[1].closed == ("a",)
    assert source.batches[1].rows[0].epoch != source.batches[0].rows[0].epoch
    assert source.batches[1].rows[0].block_hashes == tuple(names(12))


def test_a_jump_of_the_computed_position_is_a_gap(adapter, source):
    adapter.step(engine_step(("a", 0, 10, [], [7])))
    adapter.step(engine_step(("a", 16, 1, [], [9])))
    assert adapter.stats.gaps == 1
    assert source.batches[1].rows[0].epoch != source.batches[0].rows[0].epoch


def test_a_late_reply_means_plain_decoding_and_is_no_gap(adapter, source):
    source.late = True
    assert adapter.step(engine_step(("a", 0, 10, [], [7]))) == [[]]
    source.late = False
    assert adapter.step(engine_step(("a", 10, 1, [], [8]))) == [[100, 101, 102]]
    assert source.batches[1].rows[0].epoch == source.batches[0].rows[0].epoch
    assert (adapter.stats.gaps, adapter.stats.steps_without_reply) == (0, 1)


@pytest.mark.parametrize("tokens", [[[200, 1, 1, 1]], [[-1, 1, 1, 1]], [[1, 1, 1]], [[1] * 4] * 2])
def test_a_reply_that_no_drafter_may_give_means_plain_decoding(adapter, source, tokens):
    source.draft = lambda batch: DraftBatch(torch.tensor(tokens), torch.ones(1, GAMMA))
    assert adapter.step(engine_step(("a", 0, 10, [], [7]))) == [[]]
    assert adapter.stats.malformed_replies == 1


def test_a_source_that_fails_means_plain_decoding(adapter, source):
    def fail(batch):
        raise RuntimeError("broken")

    source.draft = fail
    assert adapter.step(engine_step(("a", 0, 10, [], [7]))) == [[]]
    assert adapter.stats.steps_without_reply == 1


def test_drafts_end_at_the_models_length(adapter):
    # The anchor sits at 61 of 64: two more positions exist, the last for the bonus token.
    assert adapter.step(engine_step(("a", 60, 1, [], [7]))) == [[100, 101]]
    assert adapter.step(engine_step(("b", 62, 1, [], [7]))) == [[]]


def test_drafts_end_at_max_tokens(adapter):
    # Of 8 positions the anchor is at 4: three more, the last for the bonus token.
    adapter.open_request("a", RequestTerms(max_positions=8))
    assert adapter.step(engine_step(("a", 0, 4, [], [7]))) == [[100, 101]]
    adapter.open_request("b", RequestTerms(max_positions=6))
    assert adapter.step(engine_step(("b", 0, 4, [], [7]))) == [[]]


def test_an_ineligible_request_has_no_session_and_is_counted(adapter, source):
    adapter.open_request("a", RequestTerms("seed"))
    assert adapter.step(engine_step(("a", 0, 4, [], [7]), ("b", 0, 3, [], [8]))) == [
        [],
        [100, 101, 102],
    ]
    assert [row.request_id for row in source.batches[0].rows] == ["b"]
    assert source.batches[0].features[:, 0].tolist() == [4, 5, 6]
    assert adapter.stats.ineligible == {"seed": 1}


class SamplingSource(RecordingSource):
    """The same drafts, each token drawn from two with probabilities 0.75 and 0.25."""

    def draft(self, batch):
        drafts = super().draft(batch)
        ids = torch.stack((drafts.tokens, drafts.tokens + 50), dim=-1)
        probs = torch.tensor([0.75, 0.25]).expand(ids.shape)
        return replace(drafts, distribution=SparseDistribution(ids, probs))


def test_q_of_a_mixed_batch_covers_its_draft_tokens_in_the_order_of_requests():
    adapter = make_adapter(SamplingSource())
    adapter.open_request("sampled", RequestTerms(temperature=0.8))
    adapter.open_request("seeded", RequestTerms("seed", 0.9))
    adapter.open_request("short", RequestTerms(temperature=0.8, max_positions=10))
    ids = ["sampled", "greedy", "seeded", "short"]
    tokens = adapter.step(engine_step(*((id_, 0, 7, [], [7]) for id_ in ids)))
    assert tokens == [[100, 101, 102], [100, 101, 102], [], [100]]
    drafts = {id_: drafted for id_, drafted in zip(ids, tokens, strict=True) if drafted}
    q = adapter.draft_distribution(["short", "seeded", "greedy", "unknown", "sampled"], drafts)
    one_hot, drawn = [1.0, 0.0], [0.75, 0.25]
    assert q.token_ids[:, 0].tolist() == [100, 100, 101, 102, 100, 101, 102]
    assert q.probs.tolist() == [drawn, one_hot, one_hot, one_hot, drawn, drawn, drawn]
    assert adapter.draft_distribution(["greedy"], drafts) is None


def test_while_off_features_flow_and_nothing_is_asked(source):
    adapter = make_adapter(source, Off())
    assert adapter.step(engine_step(("a", 0, 4, [], [7]))) == [[]]
    adapter.close_requests(["a"])
    adapter.flush()
    assert source.batches[0].num_drafts == 0
    assert len(source.batches[0].features) == 4
    assert adapter.stats.steps_without_reply == 0


def test_while_off_steps_are_held_back_and_sent_together(source):
    adapter = make_adapter(source, Off())
    adapter.step(engine_step(("a", 0, 4, [], [7])))
    adapter.step(engine_step(("a", 4, 1, [], [8])))
    adapter.policy = Fixed(3)
    adapter.step(engine_step(("a", 5, 1, [], [9])))
    held, request = source.batches
    assert [(r.start, r.num_rows, r.anchor) for r in held.rows] == [(0, 5, None)]
    assert [(r.start, r.num_rows, r.anchor) for r in request.rows] == [(5, 1, 9)]


class Listener(Fixed):
    """Fixed(3) that keeps what it is told."""

    def __init__(self):
        super().__init__(3)
        object.__setattr__(self, "outcomes", [])
        object.__setattr__(self, "num_timed", [])

    def record_step(self, outcome):
        self.outcomes.append(outcome)

    def record_draft(self, num_drafts, draft_s):
        self.num_timed.append(num_drafts)


def test_the_policy_hears_what_every_step_did(source):
    adapter = make_adapter(source, Listener())
    adapter.step(engine_step(("a", 0, 6, [], [7]), ("b", 0, 3, [], [8])))
    adapter.step(engine_step(("a", 6, 4, [100, 101, 102], [100, 9]), ("b", 3, 1, [], [5])))
    first, second = adapter.policy.outcomes
    assert (first.n_tokens, first.step_s, list(first.verified)) == (9, None, [])  # a prefill
    assert second.n_tokens == 5
    assert second.step_s > 0
    assert list(second.verified) == [("a", 3, 1), ("b", 0, 0)]


def test_the_policy_hears_what_a_step_took_that_read_a_prompt_beside_a_request(source):
    adapter = make_adapter(source, Listener())
    adapter.step(engine_step(("a", 0, 6, [], [7])))
    adapter.step(engine_step(("a", 6, 4, [100, 101, 102], [9]), ("b", 0, 5, [], [])))
    outcome = adapter.policy.outcomes[1]
    assert (outcome.n_tokens, outcome.prompt_tokens) == (9, 4)
    assert outcome.step_s > 0
    assert adapter.stats.mean_step_s == 0.0


def test_the_policy_hears_the_cost_of_drafts_that_wait_for_nothing_else(source):
    adapter = make_adapter(source, Listener())
    adapter.step(engine_step(("a", 0, 6, [], [7])))  # behind a prompt
    assert adapter.policy.num_timed == []
    adapter.step(engine_step(("a", 6, 4, [100, 101, 102], [100, 9])))
    assert adapter.policy.num_timed == [1]
    listener, adapter.policy = adapter.policy, Off()
    adapter.step(engine_step(("a", 8, 1, [], [5])))
    adapter.policy = listener
    adapter.step(engine_step(("a", 9, 1, [], [6])))  # behind what was held back
    assert adapter.policy.num_timed == [1]
    adapter.step(engine_step(("a", 10, 1, [], [6])))
    assert adapter.policy.num_timed == [1, 1]


def test_a_draft_that_nobody_was_asked_for_costs_nothing_that_counts(source):
    """As in a cool-off, or without a drafter; waiting in vain for one does count."""
    adapter = make_adapter(source, Listener())
    adapter.step(engine_step(("a", 0, 6, [], [7])))
    source.late = True
    adapter.step(engine_step(("a", 6, 1, [], [9])))
    assert adapter.policy.num_timed == []
    source.draft = lambda batch: time.sleep(0.005)
    adapter.step(engine_step(("a", 7, 1, [], [9])))
    assert adapter.policy.num_timed == [1]


def test_the_policy_hears_of_drafts_that_were_waited_for_in_vain(source):
    """But not of steps in which nobody was asked, or the drafter had a prompt to take in first."""
    adapter = make_adapter(source, Listener())
    in_vain, at_once = (lambda batch: time.sleep(0.005)), (lambda batch: None)
    position = 0
    for draft, num_scheduled in ((in_vain, 6), (in_vain, 1), (at_once, 1), (in_vain, 1)):
        source.draft = draft
        adapter.step(engine_step(("a", position, num_scheduled, [], [7])))
        position += num_scheduled
    adapter.step(engine_step(("a", position, 1, [], [7])))
    heard = [list(outcome.verified) for outcome in adapter.policy.outcomes]
    assert heard == [[], [], [("a", 0, 0)], [], [("a", 0, 0)]]


def test_confidences_that_are_no_probabilities_mean_plain_decoding(adapter, source):
    for bad in (float("nan"), -0.1, 1.1):
        source.draft = lambda batch, bad=bad: DraftBatch(
            torch.ones(1, GAMMA, dtype=torch.long), torch.full((1, GAMMA), bad)
        )
        assert adapter.step(engine_step(("a", 0, 10, [], [7]))) == [[]]
    assert adapter.stats.malformed_replies == 3


def test_closing_is_told_even_when_no_step_follows(adapter, source):
    adapter.step(engine_step(("a", 0, 4, [], [7])))
    adapter.close_requests(["a"])
    adapter.flush()
    assert source.batches[1].closed == ("a",)
    assert source.batches[1].features.shape == (0, 2)
    assert adapter.num_sessions == 0
    adapter.flush()
    assert len(source.batches) == 2


class Spans:
    """What the adapter says of drafting for traced requests."""

    def __init__(self):
        self.said = []
        self.opened = set()

    def __len__(self):
        return len(self.opened)

    def open(self, request_id, traceparent, ineligible):
        self.opened.add(request_id)
        self.said.append(("open", request_id, traceparent, ineligible))

    def marked(self, batch):
        return replace(batch, trace="00-t")

    def asked(self, rows, wait_s, *, answered):
        self.said.append(("asked", [row.request_id for row in rows], answered))

    def verified(self, drafts):
        self.said += [("verified", *draft) for draft in drafts]

    def close(self, request_id):
        self.opened.discard(request_id)
        self.said.append(("close", request_id))


def test_drafting_for_traced_requests_is_told_and_for_others_it_is_not(adapter, source):
    adapter.spans = spans = Spans()
    adapter.open_request("b", RequestTerms())
    adapter.step(engine_step(("b", 0, 3, [], [8])))
    assert spans.said == []
    assert source.batches[0].trace == ""
    adapter.open_request("a", RequestTerms(trace="00-a"))
    adapter.step(engine_step(("a", 0, 6, [], [7])))
    assert source.batches[1].trace == "00-t"
    source.late = True
    adapter.step(engine_step(("a", 6, 4, [100, 101, 102], [100, 9])))
    adapter.close_requests(["a"])
    assert spans.said == [
        ("open", "a", "00-a", None),
        ("asked", ["a"], True),
        ("verified", "a", 3, 1),
        ("asked", ["a"], False),
        ("close", "a"),
    ]
    adapter.step(engine_step(("b", 3, 1, [], [8])))
    assert len(spans.said) == 5
